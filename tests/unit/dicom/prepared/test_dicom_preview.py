"""The operator's view of a data set from DICOM: counts on a terminal, pictures in the state folder."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from brokers import PATIENCE
from dicom_rig import SECRET, settings, write
from PIL import Image

from deploy.demo import toml
from messages.ground.errors import DataError
from site_agent.config import read_config
from site_agent.data.inventory import take_stock_of
from site_agent.datasets.source import LoadedCase
from site_agent.desk import preflight
from site_agent.dicom.prepared.preview import _COLOURS, TILE, _draw_row, draw_sheets


def site(tmp_path: Path, before: dict[str, Any] | None = None, **more: Any) -> Path:
    """A site.toml over the exported studies, with other data sets before them."""
    plain = settings(tmp_path / "export", **more).model_dump(mode="json", exclude_unset=True)
    content = {
        "schema": 1,
        "site": {"name": "site-a", "consortium": "c", "state": "state"},
        "datasets": {**(before or {}), "glioma": plain},
    }
    (tmp_path / "site.toml").write_text(toml.write_toml(content))
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "secret").write_bytes(SECRET)
    return tmp_path / "site.toml"


def konsil(*arguments: str) -> str:
    """Standard output of `konsil site …`, which has to end well."""
    command = [sys.executable, "-m", "deploy.cli", "site", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(path: Path) -> None:
    """As the command does, in this process."""
    config = read_config(path)
    take_stock_of("glioma", config.datasets["glioma"], config.site.state)


def test_the_command_prepares_and_tells_counts_and_reasons(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    write(tmp_path / "export", [2], keep=lambda obj: obj.Modality != "SEG")
    config = site(tmp_path)
    told = json.loads(konsil("datasets", "--config", str(config), "--json"))["datasets"]["glioma"]
    assert (told["found"], told["used"], told["left_out"]) == (3, 2, {"no-label": 1})
    assert told["channels"] == ["T1", "T1c", "T2", "FLAIR"]
    assert len(told["fingerprint"]) == 64
    shown = konsil("datasets", "--config", str(config))
    assert "glioma: 2 of 3 cases usable" in shown
    assert "no-label" in shown
    assert "KH-000" not in shown


def test_a_data_set_that_cannot_be_had_hides_no_other_and_shows_in_the_exit_status(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    config = site(tmp_path, {"early": {"source": "brats", "path": "gone", "labels": {"1": "ET"}}})
    command = [sys.executable, "-m", "deploy.cli", "site", "datasets", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    assert done.returncode == 2
    assert "early: " in done.stderr
    assert "there is no such folder" in done.stderr
    assert "glioma: 1 of 1 cases usable" in done.stdout


def test_the_preview_is_one_picture_a_dozen_cases_and_its_owners_alone(tmp_path: Path) -> None:
    written = write(tmp_path / "export", range(2))
    config = site(tmp_path)
    prepare(config)
    told = json.loads(konsil("preview", "glioma", "--config", str(config), "--json"))
    assert "faces" in told["warning"]
    (sheet,) = map(Path, told["sheets"])
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert sheet.is_relative_to(tmp_path / "state")
    picture = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    colourful = np.ptp(picture, axis=2) > 60
    assert written[0].label.any()
    assert colourful[60:].sum() > 50  # outlines; the rest is grey
    assert (picture[60:][~colourful[60:]].max(axis=-1) > 120).sum() > 1000  # heads


ORIENTATIONS = [
    [[axes[n], flips[n]] for n in range(3)]
    for axes in ((0, 1, 2), (1, 2, 0), (2, 1, 0))
    for flips in ((1, 1, 1), (-1, -1, 1), (-1, 1, -1))
]


def case(label: np.ndarray[Any, Any], spacing: tuple[float, float, float], orientation: Any = None) -> LoadedCase:
    """A label (RAS+) over an image that is as bright as the label is high, written along any axes."""
    affine = np.diag([*spacing, 1.0])
    image, mask = nib.Nifti1Image(label.astype(np.float32), affine), nib.Nifti1Image(label, affine)
    if orientation is not None:
        image, mask = image.as_reoriented(np.array(orientation)), mask.as_reoriented(np.array(orientation))
    return LoadedCase(image.get_fdata(dtype=np.float32)[None], np.asarray(mask.dataobj), ("a", "b"), mask.affine)


def shown(label: np.ndarray[Any, Any], spacing: tuple[float, float, float], orientation: Any = None) -> Any:
    """The only tile, as integers."""
    _, (tile,) = _draw_row(case(label, spacing, orientation))
    return tile.astype(int)


def coloured(tile: Any, value: int) -> Any:
    return np.all(tile == _COLOURS[value - 1], axis=2)


def pixels(label: np.ndarray[Any, Any], spacing: tuple[float, float, float], k: int) -> Any:
    """Each pixel's voxel, counted out in millimetres: (row, column) of the tile, from the front and the right."""
    size = np.array(label.shape[:2]) * spacing[:2]
    width, height = (round(edge * TILE / size.max()) for edge in size)
    top, left = (TILE - height) // 2, (TILE - width) // 2
    tile = np.zeros((TILE, TILE), np.uint8)
    for row in range(height):
        for column in range(width):
            x, y = size[0] * (1 - (column + 0.5) / width), size[1] * (1 - (row + 0.5) / height)  # from left and back
            tile[top + row, left + column] = label[int(x / spacing[0]), int(y / spacing[1]), k]
    return tile


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 4.0, 2.0), (6.0, 1.7, 1.0)])
def test_an_outline_runs_along_its_own_label_in_any_orientation_and_at_any_spacing(
    spacing: tuple[float, float, float],
) -> None:
    label = np.zeros((31, 41, 5), np.uint8)  # odd: no pixel's centre lies between two voxels
    label[3:14, 20:34, 1:4], label[7:10, 25:29, 1:4], label[12:20, 15:24, 2:4] = 1, 0, 2
    wanted = pixels(label, spacing, 2)
    around = np.pad(wanted, 1)
    beside = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    for orientation in ORIENTATIONS:
        tile = shown(label, spacing, orientation)
        for value in (1, 2):
            edge = (wanted == value) & np.any([other != value for other in beside], axis=0)
            np.testing.assert_array_equal(coloured(tile, value), edge)
        grey = np.ptp(tile, axis=2) == 0
        np.testing.assert_array_equal(tile[..., 0][grey], (np.array([0, 127, 255])[wanted])[grey])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_patients_right_is_on_the_left_and_the_front_above(orientation: Any) -> None:
    label = np.zeros((40, 40, 3), np.uint8)
    label[30:36, 24:28, 1] = 1  # to the right, a little to the front
    rows, columns = np.nonzero(coloured(shown(label, (1.0, 1.0, 1.0), orientation), 1))
    assert columns.max() < TILE / 2
    assert rows.max() < TILE / 2
    assert columns.mean() < rows.mean()  # further to the right than to the front


@pytest.mark.parametrize("spacing", [(0.25, 0.25, 1.0), (0.25, 25.0, 1.0), (25.0, 0.25, 1.0)])
def test_a_structure_and_a_hole_of_one_voxel_are_seen_where_voxels_are_finer_than_pixels(
    spacing: tuple[float, float, float],
) -> None:
    shape = tuple(800 if edge < 1 else 8 for edge in spacing[:2])
    label = np.zeros((*shape, 3), np.uint8)
    label[shape[0] // 4, shape[1] // 4, 1] = 2
    label[shape[0] // 2 : -1, shape[1] // 2 : -1, 1] = 1
    hole = (shape[0] * 3 // 4, shape[1] * 3 // 4)
    label[(*hole, 1)] = 0
    tile = shown(label, spacing)
    assert coloured(tile, 2).any()
    # A voxel as long as several pixels has an outline without gaps.
    rows, columns = np.nonzero(coloured(tile, 2))
    assert coloured(tile, 2).sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    size = np.array(shape) * spacing[:2] * TILE / max(np.array(shape) * spacing[:2])
    right, down = (size * (1 - (np.array(hole) + 0.5) / shape) + (TILE - size) / 2).astype(int)
    assert coloured(tile, 1)[down - 3 : down + 4, right - 3 : right + 4].any()


def test_a_case_says_which_slice_is_shown_and_whether_it_has_a_label() -> None:
    label = np.zeros((8, 8, 5), np.uint8)
    assert _draw_row(case(label, (1.0, 1.0, 1.0)))[0] == "slice 3 of 5, no label"
    label[2:4, 2:4, 3:5] = 1
    assert _draw_row(case(label, (1.0, 1.0, 1.0)))[0] == "slice 5 of 5, 2 with label, a 0.008 ml"


def test_the_preview_of_what_is_not_prepared_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "export", [0], keep=lambda obj: obj.Modality != "SEG")
    config = settings(tmp_path / "export")
    with pytest.raises(DataError, match="konsil site datasets"):
        draw_sheets("glioma", config, tmp_path / "state", lambda *_: None)
    path = site(tmp_path)
    prepare(path)
    with pytest.raises(DataError, match="no case out of 1"):
        draw_sheets("glioma", read_config(path).datasets["glioma"], tmp_path / "state", lambda *_: None)


def test_preflight_asks_the_source_and_says_what_is_prepared(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    path = site(tmp_path)
    before = [*preflight._check_datasets(read_config(path))]
    assert [(one.grade.value, "2 studies found, none prepared" in one.what) for one in before] == [("warn", True)]
    prepare(path)
    after = [*preflight._check_datasets(read_config(path))]
    assert [(one.grade.value, "2 of 2 prepared" in one.what) for one in after] == [("ok", True)]
    (tmp_path / "export").rename(tmp_path / "gone")
    assert [one.grade.value for one in preflight._check_datasets(read_config(path))] == ["fail"]
