"""How large each concept is, for the operator: `konsil site datasets` shows it for any data set."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from deploy.cli.site import app
from site_agent.data.volumes import format_ml

SHAPE = (10, 10, 10)


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
