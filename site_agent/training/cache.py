"""Preprocessed cases on disk, memory-mapped: read once, kept for later rounds, processes and experiments.

One folder a case, named by a digest over the case's content and all parameters of preprocessing; it is written
under another name and renamed when it is whole, so that a kill in between leaves nothing that looks finished.
Images are kept as float16: z-scores need no more (relative error 5e-4), and it halves disk and page cache.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages import codec
from messages.experiment import Preprocessing
from site_agent.training.preprocess import Geometry, PreparedCase

VERSION = 1
"""Raise it when preprocessing changes what it makes of the same case."""

_LARGEST_HALF = 65504.0
_LARGEST_SAMPLE = 20_000


@dataclass(frozen=True)
class CachedCase:
    """One case as it lies on disk; the arrays are read-only maps and cost memory only where they are read.

    Attributes:
        name: the case's local name.
        image: float16 (C, x, y, z). label: uint8 (x, y, z). reference: uint8 (X, Y, Z).
        foreground: int32 (n,), flat indices into `label` of foreground voxels, evenly thinned to a bounded number.
    """

    name: str
    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    foreground: NDArray[np.int32]
    geometry: Geometry


def content_key(image: NDArray[Any], label: NDArray[Any], affine: NDArray[Any], settings: Preprocessing,
                concepts: tuple[str, ...]) -> str:  # fmt: skip
    """SHA-256 (hex) over the case's voxels and everything that decides what preprocessing makes of them."""
    state = sha256(codec.canonical([VERSION, settings.model_dump(mode="json"), list(concepts), list(image.shape)]))
    state.update(np.ascontiguousarray(affine, dtype="<f8").data)
    for channel in image:
        state.update(np.ascontiguousarray(channel, dtype="<f4").data)
    state.update(np.ascontiguousarray(label, dtype=np.uint8).data)
    return state.hexdigest()


def holds(folder: Path, key: str) -> bool:
    """Whether a case is there, whole."""
    return (folder / key).is_dir()


def store(folder: Path, key: str, case: PreparedCase) -> None:
    """Write a case; a no-op where it is there already. OSError where the disk is full."""
    final = folder / key
    if final.exists():
        return
    beside = folder / f".{key}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        np.save(beside / "image.npy", np.clip(case.image, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16))
        np.save(beside / "label.npy", case.label)
        np.save(beside / "reference.npy", case.reference)
        np.save(beside / "foreground.npy", _foreground(case.label))
        (beside / "geometry.json").write_text(json.dumps(asdict(case.geometry)))
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        beside.rename(final)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        if final.exists():  # another process of this site wrote the same case meanwhile
            return
        raise


def fetch(folder: Path, key: str, name: str) -> CachedCase:
    """Map a stored case."""
    place = folder / key
    geometry = json.loads((place / "geometry.json").read_text())

    def mapped(what: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(place / f"{what}.npy", mmap_mode="r", allow_pickle=False)
        return array

    return CachedCase(
        name=name,
        image=mapped("image"),
        label=mapped("label"),
        reference=mapped("reference"),
        foreground=np.load(place / "foreground.npy", allow_pickle=False),
        geometry=Geometry(
            shape=tuple(geometry["shape"]),
            box=tuple((begin, end) for begin, end in geometry["box"]),  # type: ignore[arg-type]
            spacing_mm=tuple(geometry["spacing_mm"]),
        ),
    )


def sweep(folder: Path) -> None:
    """Remove what processes that no longer run left half-written."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(".*.*"):
        pid = leftover.name.rsplit(".", 1)[-1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _foreground(label: NDArray[np.uint8]) -> NDArray[np.int32]:
    indices = np.flatnonzero(label)
    if indices.size > _LARGEST_SAMPLE:
        indices = indices[np.linspace(0, indices.size - 1, _LARGEST_SAMPLE).astype(np.int64)]
    return indices.astype(np.int32)
