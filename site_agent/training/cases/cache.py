"""Preprocessed cases on disk, memory-mapped: read once, kept for later rounds, processes and experiments.

One folder a case, named by a digest over the case's content and all parameters of preprocessing; it is written
under another name and renamed when it is whole, so that a kill in between leaves nothing that looks finished.
Images are kept as float16 where that holds what the experiment asked for, else as float32 (`precision`).

Where the site asks for encryption at rest nothing can be mapped: the arrays lie sealed and are opened into memory when
they are read, the last ones kept up to a bound.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from messages import codec
from messages.sections import Preprocessing
from site_agent.datasets.vault import SUFFIX, Vault
from site_agent.training.cases.precision import NumberFormat
from site_agent.training.cases.preprocess import Geometry, PreparedCase, Turn

VERSION = 1
"""Raise it when preprocessing changes what it makes of the same case."""

_LARGEST_SAMPLE = 20_000


OPENED_BYTES = 2**30
"""Bytes of opened arrays that a process keeps at most, beside the one in use."""


class CachedCase(Protocol):
    """One preprocessed case.

    Attributes:
        name: the case's local name.
        image: float16 or float32 (C, x, y, z). label: uint8 (x, y, z). reference: uint8 (X, Y, Z).
        foreground: int32 (n,), flat indices into `label` of foreground voxels, evenly thinned to a bounded number.
        truth: float32 (K,), what a table says of the case; empty where a label map does. Then label, reference and
            foreground are empty.
    """

    @property
    def name(self) -> str: ...
    @property
    def image(self) -> NDArray[np.floating[Any]]: ...
    @property
    def label(self) -> NDArray[np.uint8]: ...
    @property
    def reference(self) -> NDArray[np.uint8]: ...
    @property
    def foreground(self) -> NDArray[np.int32]: ...
    @property
    def truth(self) -> NDArray[np.float32]: ...
    @property
    def geometry(self) -> Geometry: ...


@dataclass(frozen=True)
class MappedCase:
    """A case that lies open on disk; the arrays are read-only maps and cost memory only where they are read."""

    name: str
    image: NDArray[np.floating[Any]]
    label: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    foreground: NDArray[np.int32]
    geometry: Geometry
    truth: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))


class _Opened:
    """Decrypted arrays by file, the last used ones. Any thread."""

    def __init__(self) -> None:
        self._arrays: OrderedDict[Path, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get_array(self, path: Path, vault: Vault) -> NDArray[Any]:
        """OSError or ValueError where the file is gone or damaged."""
        with self._lock:
            if path in self._arrays:
                self._arrays.move_to_end(path)
                return self._arrays[path]
            array: NDArray[Any] = np.load(BytesIO(vault.open(path.read_bytes())), allow_pickle=False)
            array.flags.writeable = False
            self._arrays[path] = array
            self._bytes += array.nbytes
            while self._bytes > OPENED_BYTES and len(self._arrays) > 1:
                self._bytes -= self._arrays.popitem(last=False)[1].nbytes
            return array


_OPENED = _Opened()


@dataclass(frozen=True)
class SealedCase:
    """A case that lies encrypted; each array is opened when it is read."""

    name: str
    geometry: Geometry
    _place: Path
    _vault: Vault
    truth: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))

    @property
    def image(self) -> NDArray[np.floating[Any]]:
        return self._read_array("image")

    @property
    def label(self) -> NDArray[np.uint8]:
        return self._read_array("label")

    @property
    def reference(self) -> NDArray[np.uint8]:
        return self._read_array("reference")

    @property
    def foreground(self) -> NDArray[np.int32]:
        return self._read_array("foreground")

    def _read_array(self, what: str) -> NDArray[Any]:
        return _OPENED.get_array(self._place / f"{what}.npy{SUFFIX}", self._vault)


def content_key(image: NDArray[Any], label: NDArray[Any], affine: NDArray[Any], settings: Preprocessing,
                concepts: tuple[str, ...], number_format: NumberFormat = "float16") -> str:  # fmt: skip
    """SHA-256 (hex) over the case's voxels and everything that decides what preprocessing makes of them."""
    rules = [VERSION, settings.model_dump(mode="json"), list(concepts), list(image.shape)]
    # 0.1 knew float16 alone, and its keys stay
    state = sha256(codec.canonical(rules if number_format == "float16" else [*rules, number_format]))
    state.update(np.ascontiguousarray(affine, dtype="<f8").data)
    for channel in image:
        state.update(np.ascontiguousarray(channel, dtype="<f4").data)
    state.update(np.ascontiguousarray(label, dtype=np.uint8).data)
    return state.hexdigest()


def place_of(folder: Path, key: str, vault: Vault | None) -> Path:
    """Where a case lies; an encrypted one elsewhere than the same one in the open."""
    return folder / (key if vault is None else f"{key}{SUFFIX}")


def holds_case(folder: Path, key: str, vault: Vault | None = None) -> bool:
    """Whether a case is there, whole."""
    return place_of(folder, key, vault).is_dir()


def size_of(case: PreparedCase) -> int:
    """About the bytes that a case takes on disk."""
    return np.dtype(case.number_format).itemsize * case.image.size + 2 * case.label.nbytes + case.reference.nbytes


def store_case(folder: Path, key: str, case: PreparedCase, vault: Vault | None = None) -> None:
    """Write a case, encrypted where there is a vault; a no-op where it is there already. OSError: the disk is full."""
    final = place_of(folder, key, vault)
    if final.exists():
        return
    beside = folder / f".{key}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        _save_array(beside / "image.npy", case.image.astype(case.number_format, copy=False), vault)
        _save_array(beside / "label.npy", case.label, vault)
        _save_array(beside / "reference.npy", case.reference, vault)
        _save_array(beside / "foreground.npy", _foreground_voxels(case.label), vault)
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


def remove_case(folder: Path, key: str, vault: Vault | None = None) -> None:
    """Remove a case that does not read any more; it is made again."""
    shutil.rmtree(place_of(folder, key, vault), ignore_errors=True)


def _save_array(path: Path, array: NDArray[Any], vault: Vault | None) -> None:
    if vault is None:
        np.save(path, array)
        return
    content = BytesIO()
    np.save(content, array)
    path.with_name(path.name + SUFFIX).write_bytes(vault.seal(content.getbuffer()))


def fetch_case(
    folder: Path, key: str, name: str, vault: Vault | None = None, truth: Sequence[float] = ()
) -> CachedCase:
    """Map a stored case; with a vault it is opened when it is read.

    Args:
        truth: what a table says of it; it is not stored with the images, which may have another one tomorrow.
    """
    value = np.asarray(truth, dtype=np.float32)
    where = place_of(folder, key, vault)
    plain = json.loads((where / "geometry.json").read_text())
    x, y, z = ((begin, end) for begin, end in plain["box"])
    geometry = Geometry(
        shape=tuple(plain["shape"]),
        box=(x, y, z),
        spacing_mm=tuple(plain["spacing_mm"]),
        turn=_read_turn(plain.get("turn")),
    )
    if vault is not None:
        return SealedCase(name, geometry, where, vault, value)

    def mapped(what: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(where / f"{what}.npy", mmap_mode="r", allow_pickle=False)
        return array

    return MappedCase(
        name=name,
        image=mapped("image"),
        label=mapped("label"),
        reference=mapped("reference"),
        foreground=np.load(where / "foreground.npy", allow_pickle=False),
        geometry=geometry,
        truth=value,
    )


def _read_turn(plain: list[list[Any]] | None) -> Turn | None:
    """0.1 kept none."""
    if plain is None:
        return None
    one, two, three = ((int(axis), bool(flipped)) for axis, flipped in plain)
    return (one, two, three)


def sweep_leftovers(folder: Path) -> None:
    """Remove what processes that no longer run left half-written."""
    if not folder.is_dir():
        return
    for leftover in folder.glob(".*.*"):
        pid = leftover.name.rsplit(".", 1)[-1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def _foreground_voxels(label: NDArray[np.uint8]) -> NDArray[np.int32]:
    indices = np.flatnonzero(label)
    if indices.size > _LARGEST_SAMPLE:
        indices = indices[np.linspace(0, indices.size - 1, _LARGEST_SAMPLE).astype(np.int64)]
    return indices.astype(np.int32)
