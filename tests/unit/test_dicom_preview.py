"""The operator's view of a data set from DICOM: counts on a terminal, pictures in the state folder."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_rig import SECRET, settings, write
from PIL import Image

from deploy.demo import toml
from messages.errors import DataError, RequestError
from site_agent import preflight
from site_agent.config import read
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.preview import draw
from site_agent.inventory import take_stock_of


def site(tmp_path: Path, before: dict[str, Any] | None = None, **more: Any) -> Path:
    """A site.toml over the exported studies, with other data sets before them."""
    plain = settings(tmp_path / "export", **more).model_dump(mode="json", exclude_unset=True)
    content = {
        "schema": 1,
        "site": {"name": "site-a", "consortium": "c", "state": "state"},
        "datasets": {**(before or {}), "glioma": plain},
    }
    (tmp_path / "site.toml").write_text(toml.dumps(content))
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "secret").write_bytes(SECRET)
    return tmp_path / "site.toml"


def konsil(*arguments: str) -> str:
    """Standard output of `konsil site …`, which has to end well."""
    command = [sys.executable, "-m", "deploy.cli", "site", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepare(path: Path) -> None:
    """As the command does, in this process."""
    config = read(path)
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
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


def test_the_preview_of_what_is_not_prepared_or_no_dicom_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "export", [0], keep=lambda obj: obj.Modality != "SEG")
    config = settings(tmp_path / "export")
    with pytest.raises(DataError, match="konsil site datasets"):
        draw("glioma", config, tmp_path / "state", lambda *_: None)
    nifti = DatasetConfig(source="brats", path=tmp_path, labels={1: "ET"})
    with pytest.raises(RequestError, match="does not come from DICOM"):
        draw("glioma", nifti, tmp_path, lambda *_: None)
    path = site(tmp_path)
    prepare(path)
    with pytest.raises(DataError, match="no case out of 1"):
        draw("glioma", read(path).datasets["glioma"], tmp_path / "state", lambda *_: None)


def test_preflight_asks_the_source_and_says_what_is_prepared(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    path = site(tmp_path)
    before = [*preflight._datasets(read(path))]
    assert [(one.grade.value, "2 studies found, none prepared" in one.what) for one in before] == [("warn", True)]
    prepare(path)
    after = [*preflight._datasets(read(path))]
    assert [(one.grade.value, "2 of 2 prepared" in one.what) for one in after] == [("ok", True)]
    (tmp_path / "export").rename(tmp_path / "gone")
    assert [one.grade.value for one in preflight._datasets(read(path))] == ["fail"]
