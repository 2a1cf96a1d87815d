"""How large each concept is, for the operator: `konsil site datasets` shows it for any data set."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.site.cli import app
from messages.ground.errors import ConfigError
from site_agent.data.volumes import format_ml

SHAPE = (10, 10, 10)


@pytest.fixture(autouse=True)
def _the_tests_own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in this process: its log must not stay tied to an output that is closed behind it."""
    monkeypatch.setattr("messages.ground.logs.configure_log", lambda *_who, **_more: None)


def write_case(folder: Path, name: str, boxes: dict[int, int], spacing: tuple[float, float, float]) -> None:
    """A BraTS case whose integer N has boxes[N] voxels; its axes lie obliquely."""
    rng = np.random.default_rng(len(name))
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    place = folder / name
    place.mkdir(parents=True)
    for ending in ("t1n", "t1c", "t2w", "t2f"):
        volume = rng.integers(1, 99, SHAPE).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, affine), place / f"{name}-{ending}.nii.gz")
    label = np.zeros(SHAPE, np.uint8)
    begin = 0
    for integer, count in boxes.items():
        label.reshape(-1)[begin : begin + count] = integer
        begin += count
    nib.save(nib.Nifti1Image(label, affine), place / f"{name}-seg.nii.gz")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    write_case(data, "BraTS-GLI-00001-000", {1: 100, 2: 400}, (2.0, 2.0, 2.5))  # 10 mm³ a voxel
    write_case(data, "BraTS-GLI-00002-000", {1: 300, 2: 200}, (2.0, 2.0, 2.5))
    write_case(data, "BraTS-GLI-00003-000", {2: 600}, (1.0, 1.0, 10.0))
    write_case(data, "BraTS-GLI-00004-000", {1: 1, 2: 1, 9: 1}, (1.0, 1.0, 10.0))  # left out: 9 means nothing
    path = tmp_path / "site.toml"
    path.write_text(
        'schema = 1\n[site]\nname = "site-a"\nconsortium = "c"\nstate = "state"\n[broker]\n[datasets.glioma]\n'
        'source = "brats"\npath = "data"\nlabels = { 1 = "NCR", 2 = "ED", 3 = "ET" }\n'
    )
    return path


def test_median_and_range_of_each_concept_over_the_cases_that_are_used(config: Path) -> None:
    told = CliRunner().invoke(app, ["datasets", "--config", str(config)])
    assert told.exit_code == 0, told.output
    lines = [one.strip() for one in told.stdout.splitlines()]
    assert "volume of ED 4 ml (2 to 6) in 3 of 3 cases" in lines
    assert "volume of NCR 2 ml (1 to 3) in 2 of 3 cases" in lines
    assert "volume of ET in none of 3 cases" in lines


def test_exchanged_labels_exchange_the_volumes(config: Path) -> None:
    config.write_text(config.read_text().replace('1 = "NCR", 2 = "ED"', '1 = "ED", 2 = "NCR"'))
    told = json.loads(CliRunner().invoke(app, ["datasets", "--config", str(config), "--json"]).stdout)
    volumes = told["datasets"]["glioma"]["volumes"]
    assert volumes["ED"]["median_ml"] == pytest.approx(2)
    assert volumes["NCR"] == pytest.approx(
        {"cases": 3, "having": 3, "median_ml": 4.0, "least_ml": 2.0, "most_ml": 6.0}, rel=1e-4
    )


@pytest.mark.parametrize(("value", "words"), [(1234.5, "1234"), (46.12, "46.1"), (0.5, "0.5"), (0.0012, "0.0012")])
def test_a_volume_reads_without_an_exponent(value: float, words: str) -> None:
    assert format_ml(value) == words


def site_with(folder: Path, name: str, labels: str, cases: int = 5) -> Path:
    """A site of `cases` cases: ED of 4 ml, NCR of 0.5 ml, as `labels` reads the integers."""
    for number in range(cases):
        write_case(folder / "data", f"BraTS-GLI-{number:05d}-000", {1: 50 + number, 2: 400 + number}, (2.0, 2.0, 2.5))
    path = folder / "site.toml"
    path.write_text(
        f'schema = 1\n[site]\nname = "{name}"\nconsortium = "c"\nstate = "state"\n[broker]\n[datasets.glioma]\n'
        f'source = "brats"\npath = "data"\nlabels = {{ {labels} }}\n'
    )
    return path


def datasets(*arguments: object) -> str:
    told = CliRunner().invoke(app, ["datasets", *map(str, arguments)])
    assert told.exit_code == 0, told.output
    return told.stdout


def test_another_sites_medians_tell_exchanged_labels(tmp_path: Path) -> None:
    right = site_with(tmp_path / "a", "site-a", '1 = "NCR", 2 = "ED"')
    wrong = site_with(tmp_path / "b", "site-b", '1 = "ED", 2 = "NCR"')
    shared = tmp_path / "a.json"
    datasets("--config", right, "--volumes-to", shared)
    assert json.loads(shared.read_text()) == {
        "volumes": 1,
        "site": "site-a",
        "datasets": {"glioma": {"ED": {"cases": 5, "median_ml": 4.0}, "NCR": {"cases": 5, "median_ml": 0.52}}},
    }
    told = [one.strip() for one in datasets("--config", wrong, "--compare", shared).splitlines() if "CONTRA" in one]
    assert told == [
        "CONTRADICTS the other sites: ED: a median of 0.52 ml here, 4 ml at the other sites",
        "CONTRADICTS the other sites: NCR: a median of 4.02 ml here, 0.52 ml at the other sites",
        "CONTRADICTS the other sites: ED and NCR would fit the other sites better if they were exchanged: "
        "look at `labels`",
    ]
    same = site_with(tmp_path / "c", "site-c", '1 = "NCR", 2 = "ED"', cases=6)
    assert "CONTRADICTS" not in datasets("--config", same, "--compare", shared)
    assert "no other site's file" in datasets("--config", right, "--compare", shared)  # its own says nothing


def test_volumes_of_few_cases_are_not_written_for_others(tmp_path: Path) -> None:
    few = site_with(tmp_path / "a", "site-a", '1 = "NCR", 2 = "ED"', cases=4)
    datasets("--config", few, "--volumes-to", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text())["datasets"] == {"glioma": {}}


def test_a_file_that_is_no_sites_volumes_is_refused(tmp_path: Path) -> None:
    config = site_with(tmp_path / "a", "site-a", '1 = "NCR", 2 = "ED"', cases=1)
    (tmp_path / "other.json").write_text('{"datasets": {}}')
    told = CliRunner().invoke(app, ["datasets", "--config", str(config), "--compare", str(tmp_path / "other.json")])
    assert isinstance(told.exception, ConfigError)
