"""Small NIfTI data sets for tests, and the `konsil site` commands over them, as an operator runs them."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from typer.testing import CliRunner

from deploy.site.cli import app
from messages.ground import settings
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Survey, survey_cases

SHAPE = (12, 10, 8)
AFFINE = np.array([[-1.5, 0, 0, 9.0], [0, -1.25, 0, 6.0], [0, 0, 3.0, -12.0], [0, 0, 0, 1]])
LABELS = {"1": "NCR", "2": "ED", "3": "ET"}
OTHER = "other"
"""The case that a test spoils; beside it lies "good"."""


def make_label() -> np.ndarray:
    made = np.zeros(SHAPE, np.uint8)
    made[2:4, 2:8, 2:6], made[4:8, 4:6, 2:6], made[2:5, 6:7, 3] = 1, 2, 3
    return made


def make_image(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 400, SHAPE).astype(np.int16)


def save_image(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def save_case(data: Path, name: str, seed: int = 1, image: str = "-t1c.nii.gz", label: str = "-seg.nii.gz") -> Path:
    """A case of one modality in BraTS' layout; its folder."""
    save_image(data / name / f"{name}{image}", make_image(seed))
    save_image(data / name / f"{name}{label}", make_label())
    return data / name


def save_pair(data: Path) -> Path:
    """A data set of "good" and "other"; the folder of the latter."""
    save_case(data, "good")
    return save_case(data, OTHER, seed=2)


def edit_bytes(path: Path, change: Callable[[bytearray], Any], level: int = 9) -> None:
    """Change a file's content under its compression; the checksum is right again."""
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    change(content)
    path.write_bytes(gzip.compress(bytes(content), level) if packed else bytes(content))


def set_field(path: Path, at: int, form: str, *values: Any) -> None:
    """Write a field of a NIfTI-1 header, little endian."""
    edit_bytes(path, lambda content: struct.pack_into(f"<{form}", content, at, *values))


def describe(data: Path, **more: object) -> DatasetConfig:
    content: dict[str, Any] = {"source": "brats", "path": data}
    if more.get("source", "brats") == "brats":
        content |= {"labels": LABELS}
    return settings.parse_settings(content | more, DatasetConfig, "site.toml")


def survey(data: Path, channels: tuple[str, ...] = ("T1c",), **more: object) -> Survey:
    return survey_cases(describe(data, **more), channels, ["NCR"])


def write_site(folder: Path, source: str = "brats", more: str = "") -> Path:
    """site.toml of a site whose data set "glioma" lies in `folder`/data."""
    labels = 'labels = { 1 = "NCR", 2 = "ED", 3 = "ET" }\n' if source == "brats" and "labels" not in more else ""
    site = '[site]\nname = "site-a"\nconsortium = "trial"\nstate = "state"\n'
    file = folder / "site.toml"
    file.write_text(f'schema = 1\n{site}[datasets.glioma]\nsource = "{source}"\npath = "data"\n{labels}{more}')
    return file


def list_datasets(site: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`konsil site datasets --json`: its exit status, and what it says of "glioma"."""
    done = CliRunner().invoke(app, ["datasets", "--config", str(site), "--json", *arguments], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)["datasets"]["glioma"]


def say_datasets(site: Path) -> str:
    """`konsil site datasets`: what it prints."""
    return CliRunner().invoke(app, ["datasets", "--config", str(site)], catch_exceptions=False).output
