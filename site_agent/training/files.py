"""A trainer's files: the global model that it reads and the update that it writes, in the codecs of their manifests.

No torch here. A site's own trainer program can import these two functions instead of knowing any codec.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.ground import crash
from messages.ground.errors import WorkFailed
from messages.tensors.codecs import CODECS, Tensor
from messages.tensors.layout import Manifest, tensors_of, write_blocks

TOLD_AT_ONCE = 4
"""Chunks of an update that are told of together."""


def growing_path(path: str | Path) -> Path:
    """Where an update lies while it is written: of its whole size from the start, renamed to `path` at the end."""
    place = Path(path)
    return place.with_name(place.name + ".part")


growing = growing_path
"""0.1's name: a site's own trainer that uses it works for one release more."""


def kept_folder(cache: str | Path, experiment: str) -> Path:
    """Where an experiment's optimiser state lies between rounds."""
    return Path(cache) / "optimizer" / experiment


def strategy_folder(cache: str | Path, experiment: str) -> Path:
    """Where what an experiment's strategy keeps at a site lies between rounds."""
    return Path(cache) / "strategy" / experiment


def kept_file(folder: Path, round_number: int) -> Path:
    """What is kept after a round, in either folder."""
    return folder / f"round-{round_number:06d}.safetensors"


def open_model(path: str | Path, manifest: Manifest) -> dict[str, Tensor]:
    """The received model's tensors, mapped and not read yet: `Tensor.read_all` or `Tensor.read_into` decodes one.

    Raises:
        WorkFailed: the file is not there or too short, or what it holds is no model.
    """
    if CODECS[manifest.codec].difference:
        raise WorkFailed("a global model cannot be a difference", where="manifest")
    try:
        whole = np.memmap(path, dtype=np.uint8, mode="r", shape=(manifest.nbytes,)) if manifest.nbytes else b""
    except (OSError, ValueError) as error:
        raise WorkFailed(f"the received model cannot be read ({error})", where="model") from None
    return tensors_of(manifest, whole)


def write_update(
    path: str | Path,
    arrays: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    received: Mapping[str, Tensor],
    *,
    durable: bool = True,
    on_chunks: Callable[[int, list[bytes]], None] | None = None,
) -> None:
    """Write the trained weights as the update's manifest says: whole, then renamed into place.

    One pass, block by block, straight from the arrays' memory, whatever their strides: each block is encoded, written
    and hashed while it is in the core's cache.

    Args:
        arrays: by name; a lazy mapping is asked once for each.
        received: what `open_model` gave for this round, since some codecs send the difference from it.
        durable: wait until the disk has it.
        on_chunks: told the index of the first and the SHA-256 of each of the chunks that came to lie in the file since
            it was told last, for `protocol.Written`.

    Raises:
        ValueError: an array is missing, or differs from the manifest in shape or dtype.
        OSError: no space, for one.
    """
    place, beside = Path(path), growing_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    # A new file each time: what an earlier process left behind may be on its way, mapped by the agent.
    beside.unlink(missing_ok=True)
    hashed = _Chunks(manifest.chunk_bytes, on_chunks)
    with beside.open("xb", buffering=0) as file:
        if manifest.nbytes:
            os.posix_fallocate(file.fileno(), 0, manifest.nbytes)  # a full disk is told before any work is done
        for block in write_blocks(arrays, manifest, received):
            rest = block.data
            while rest:
                rest = rest[file.write(rest) :]
            hashed.add_bytes(block.data)
        hashed.end_stream()
        if durable:
            os.fdatasync(file.fileno())
    crash.pass_step("trainer:writing")
    beside.replace(place)


class _Chunks:
    """The digests of a stream's chunks, told in batches."""

    def __init__(self, size: int, tell: Callable[[int, list[bytes]], None] | None) -> None:
        self._size, self._tell = size, tell
        self._hash, self._filled = sha256(), 0
        self._first, self._digests = 0, list[bytes]()

    def add_bytes(self, data: memoryview) -> None:
        """The next bytes of the stream, which are in the file already."""
        rest = data if self._tell is not None else data[:0]
        while rest:
            part, rest = rest[: self._size - self._filled], rest[self._size - self._filled :]
            self._hash.update(part)
            self._filled += len(part)
            if self._filled == self._size:
                self._close_chunk()

    def end_stream(self) -> None:
        """The stream is over: the last chunk may be short."""
        if self._filled:
            self._close_chunk()
        self._tell_written()

    def _close_chunk(self) -> None:
        self._digests.append(self._hash.digest())
        self._hash, self._filled = sha256(), 0
        if len(self._digests) == TOLD_AT_ONCE:
            self._tell_written()

    def _tell_written(self) -> None:
        if self._tell is not None and self._digests:
            self._tell(self._first, self._digests)
            self._first, self._digests = self._first + len(self._digests), []
