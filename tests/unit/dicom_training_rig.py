"""Asking a trainer to prepare a data set from DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dicom_rig import SECRET, settings
from trainer_rig import experiment

from site_agent.training.protocol import Prepare


def request(tmp_path: Path, **more: Any) -> Prepare:
    """The studies under `export`, for an experiment of its own cache."""
    return Prepare(
        experiment=experiment().as_plain(),
        dataset=settings(tmp_path / "export", refresh="0s", **more).model_dump(mode="json"),
        site="site-a",
        secret=SECRET,
        threads=1,
        cache=str(tmp_path / "state" / "cache" / "e-1"),
        state=str(tmp_path / "state"),
    )
