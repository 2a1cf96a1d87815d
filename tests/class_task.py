"""A small classification for tests: pictures with a bright or a dark half, a table beside them, an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from messages.experiment import Experiment
from messages.ground.settings import parse_settings

EDGE = 16


def write_pictures(folder: Path, labels: Sequence[str], *, bright: str = "malignant", ending: str = "png") -> Path:
    """A picture for each label; the left half of `bright` ones is brighter. Two pictures a patient."""
    (folder / "images").mkdir(parents=True)
    lines = ["image,patient,label"]
    for number, label in enumerate(labels):
        drawn = np.random.default_rng(number).integers(60, 120, (EDGE, EDGE)).astype(np.uint8)
        if label == bright:
            drawn[:, : EDGE // 2] += 100
        Image.fromarray(drawn).save(folder / "images" / f"us-{number:02d}.{ending}")
        lines.append(f"images/us-{number:02d}.{ending},p{number // 2},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def table_source(folder: Path, **table: Any) -> dict[str, Any]:
    """[datasets.NAME] of such a folder."""
    columns = {"patient": "patient", "label": "label", **table}
    return {"source": "table", "path": str(folder), "channels": ["US"], "table": columns}


def class_experiment(sites: Sequence[str] = ("site-a",), count: int = 1, **sections: Any) -> Experiment:
    """Benign or malignant, of whole pictures. The net needs no torch."""
    plain: dict[str, Any] = {
        "schema": 1,
        "id": "breast",
        "seed": 7,
        "sites": list(sites),
        "task": {"kind": "classification", "channels": ["US"], "classes": ["benign", "malignant"]},
        "data": {"dataset": "breast"},
        "net": {"name": "Rehearsal", "tensors": 3, "kilobytes": 4},
        "preprocessing": {"size": [EDGE, EDGE], "crop": "none", "normalise": "zscore"},
        "training": {"batch": 4, "optimizer": {"name": "Adam", "lr": 0.01}},
        "rounds": {"count": count},
    }
    for section, content in sections.items():
        merge = isinstance(content, Mapping) and section != "net"
        plain[section] = {**plain.get(section, {}), **content} if merge else content
    return parse_settings(plain, Experiment, "file")
