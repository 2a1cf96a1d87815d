"""The page's way from a model file to a prediction runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
from brokers import PATIENCE
from places import ROOT

from messages.experiment import Experiment
from nets.initial import initial_model
from nets.model_file import save_model

SHAPE = (20, 24, 18)
RUNNER = """
import os, sys
for folder in sys.argv[2:]:
    os.chdir(folder)
    exec(compile(sys.argv[1], "page", "exec"), {})
"""
TILT = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, 1, 9], [0, 0, 0, 1.0]])
TURNS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "RAS": ((0, 1, 2), (1, 1, 1)),
    "LPS": ((0, 1, 2), (-1, -1, 1)),
    "LAS": ((0, 1, 2), (-1, 1, 1)),
    "permuted": ((2, 0, 1), (1, 1, 1)),
    "permuted-and-mirrored": ((1, 2, 0), (1, -1, -1)),
}
"""Name → which axis of the head each axis of the file is, and whether it runs backwards (-1)."""


def turn_volume(volume: np.ndarray, name: str) -> np.ndarray:
    """The head's voxels as such a file has them."""
    order, signs = TURNS[name]
    return volume.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]


def affine_of(name: str) -> np.ndarray:
    """Of such a file: the same head at the same place."""
    order, signs = TURNS[name]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (head, sign) in enumerate(zip(order, signs, strict=True)):
        affine[head, axis] = sign
        affine[head, 3] = 0 if sign > 0 else SHAPE[head] - 1
    return affine


def test_the_pages_lines_put_a_prediction_onto_the_image_as_it_came(tmp_path: Path) -> None:
    """One head in files of several orientations, upright and oblique: the same voxels of it are found in each."""
    page = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    assert page is not None
    draw = np.random.default_rng(1)
    heads = {channel: draw.normal(100, 10, SHAPE).astype(np.float32) for channel in ("T1", "T2")}
    folders = []
    for name in TURNS:
        for lean, rotation in (("upright", np.eye(4)), ("oblique", TILT)):
            folders.append(folder := tmp_path / f"{name}-{lean}")
            folder.mkdir()
            save(folder / "model.safetensors")
            for channel, head in heads.items():
                volume = nibabel.Nifti1Image(turn_volume(head, name), rotation @ affine_of(name))
                nibabel.save(volume, folder / f"{channel}.nii.gz")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, page[1], *folders],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\w+) \d+ voxels", done.stdout)) == {"WT", "ET"}
    for folder in folders:
        name = folder.name.rpartition("-")[0]
        image = nibabel.load(folder / "T1.nii.gz")
        for region in ("WT", "ET"):
            found = nibabel.load(folder / f"{region}.nii.gz")
            upright = np.asarray(nibabel.load(folders[0] / f"{region}.nii.gz").dataobj)
            assert 0 < upright.sum() < upright.size
            np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
            np.testing.assert_array_equal(np.asarray(found.dataobj), turn_volume(upright, name), err_msg=folder.name)


def save(path: Path) -> None:
    """A small net with its first weights, as `konsil experiment model` writes it."""
    experiment = Experiment.model_validate(
        {
            "schema": 1,
            "id": "predicts",
            "sites": ["site-a"],
            "task": {
                "kind": "segmentation",
                "channels": ["T1", "T2"],
                "regions": {"WT": ["ED"], "ET": ["ET"]},
            },
            "data": {"dataset": "glioma"},
            "net": {"name": "UNet", "channels": [2, 4], "strides": [2], "num_res_units": 0},
            "training": {"patch": [16, 16, 16]},
            "rounds": {"count": 1},
        }
    )
    save_model(path, experiment, *initial_model(experiment), round_number=1)
