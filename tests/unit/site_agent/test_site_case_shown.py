"""`konsil site datasets --case KEY` and `preview`, of DICOM and of NIfTI: what one case is made of, on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.site.cli import app
from tests.fuzz import dicom_studies

RUN = CliRunner()
SITE = """schema = 1
[site]
name = "site-a"
consortium = "glioma"
state = "state"
[broker]
host = "127.0.0.1"
port = 5672
password = "x"
[policy]
approval = "auto"
"""
DICOM = """[datasets.g]
source = "dicom"
path = "in"
channels = ["T1"]
[datasets.g.labels.concepts]
tumour = { codes = ["SCT:108369006"] }
"""
NIFTI = """[datasets.n]
source = "brats"
path = "in"
labels = { 1 = "NCR", 2 = "ED" }
"""


def shown(config: Path, key: str) -> tuple[dict, str]:
    """As JSON, and as a person sees it."""
    told = [RUN.invoke(app, ["datasets", "--config", str(config), "--case", key, *more]) for more in (["--json"], [])]
    assert [one.exit_code for one in told] == [0, 0], told[0].output + told[1].output
    return json.loads(told[0].stdout)["case"], told[1].stdout


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """A whole study, and one of which a slice is damaged; prepared."""
    for number in (1, 2):
        for place, content in enumerate(dicom_studies.study_files(f"2.25.4711.{number}", 0, "seg")):
            path = tmp_path / "in" / f"P{number}" / f"{place}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            damaged = (number, place) == (2, 1)
            path.write_bytes(content.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00U[") if damaged else content)
    config = tmp_path / "site.toml"
    config.write_text(SITE + DICOM)
    assert RUN.invoke(app, ["datasets", "--config", str(config)]).exit_code == 0
    return config


def test_a_case_from_dicom_shows_its_files_and_what_was_decided(dicom: Path) -> None:
    [case] = (dicom.parent / "state/datasets/g/cases").iterdir()
    found, text = shown(dicom, case.name.partition(".")[0])
    assert found["decided"] == "used"
    assert found["files"] == ["P1/0.dcm", "P1/1.dcm", "P1/2.dcm", "P1/3.dcm"]
    assert any("MR, 3 objects, t1_mprage: T1" in line for line in found["why"])
    assert (found["shape"], found["spacing"]) == ([9, 8, 3], [1.5, 1.25, 3.0])
    assert found["label"] == {"tumour": int(dicom_studies.truth().sum())}
    assert found["intensity"]["T1"][2] >= 1000
    assert len(found["digest"]) == 64
    for words in ("9 × 8 × 3 voxels of 1.5 × 1.25 × 3 mm", "axes LPS", "tumour: 32 voxels", "file P1/0.dcm"):
        assert words in text


def test_a_case_that_is_left_out_says_why_and_which_file_it_was(dicom: Path) -> None:
    told = RUN.invoke(app, ["datasets", "--config", str(dicom)]).stdout
    assert "P2/1.dcm: an image whose Rows cannot be read (unreadable)" in told
    key = next(line for line in told.splitlines() if "P2/1.dcm" in line).split()[2].rstrip(":")
    found, text = shown(dicom, key)
    assert found["decided"].startswith("left out: the series for T1 holds an object that cannot be used")
    assert any(line.startswith("object P2/1.dcm: left out") for line in found["why"])
    assert "file P2/0.dcm" in text


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3, 2, 1], label[4, 4, 3] = 1, 2
    image = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    for name, seg in (("BraTS-GLI-00001-000", label), ("BraTS-GLI-00002-000", label + 7)):
        (tmp_path / "in" / name).mkdir(parents=True)
        nib.save(nib.Nifti1Image(image, affine), tmp_path / "in" / name / f"{name}-t1c.nii.gz")
        nib.save(nib.Nifti1Image(seg, affine), tmp_path / "in" / name / f"{name}-seg.nii.gz")
    config = tmp_path / "site.toml"
    config.write_text(SITE + NIFTI)
    return config


def test_a_case_of_nifti_shows_its_files_grid_and_values(nifti: Path) -> None:
    found, text = shown(nifti, "BraTS-GLI-00001-000")
    assert (found["decided"], found["patient"]) == ("used", "BraTS-GLI-00001")
    assert (found["shape"], found["spacing"], found["orientation"]) == ([6, 5, 4], [1.0, 2.0, 3.0], "LPS")
    assert found["label"] == {"ED": 1, "NCR": 2}
    [(low, middle, high)] = found["intensity"].values()
    assert (low, middle, high) == (0, 59.5, 119)
    assert any(path.endswith("BraTS-GLI-00001-000-seg.nii.gz") for path in found["files"])
    assert "NCR: 2 voxels, 0.012 ml" in text
    found, _ = shown(nifti, "BraTS-GLI-00002-000")
    assert "unknown-label-value" in found["decided"]


def test_a_case_that_no_data_set_has_is_told(nifti: Path) -> None:
    told = RUN.invoke(app, ["datasets", "--config", str(nifti), "--case", "nobody"])
    assert told.exit_code != 0


def test_a_data_set_of_nifti_is_drawn(nifti: Path) -> None:
    told = RUN.invoke(app, ["preview", "n", "--config", str(nifti), "--json"])
    assert told.exit_code == 0, told.output
    [sheet] = [Path(path) for path in json.loads(told.stdout)["sheets"]]
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert sheet.stat().st_mode & 0o077 == 0
