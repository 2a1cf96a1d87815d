"""The page's way from a model file to a prediction in Python runs as it stands there."""

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


def test_the_pages_lines_tell_the_voxels_of_each_region(tmp_path: Path) -> None:
    page = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "commands.md").read_text(), re.DOTALL)
    assert page is not None
    save(tmp_path / "model.safetensors")
    for number, channel in enumerate(("T1", "T2")):
        head = np.random.default_rng(number).normal(100, 10, SHAPE).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), tmp_path / f"{channel}.nii.gz")
    done = subprocess.run(
        [sys.executable, "-c", page[1]],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"(\w+) \d+ voxels", done.stdout)) == {"WT", "ET"}


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
