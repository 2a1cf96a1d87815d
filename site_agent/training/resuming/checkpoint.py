"""A round's checkpoint as a file: one an experiment, in its cache folder. No torch, and nothing that could run code.

A file is MAGIC, the header's length (4 bytes, big-endian), the header (msgpack), the tensors' bytes as the header's
manifest lays them out (`messages.tensors.layout`), and the SHA-256 of all of that. It is written beside its place,
synced and renamed, so a kill at any moment leaves the one before it or the new one, whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from messages import codec
from messages.ground import crash
from messages.ground.durable import sync_to_disk, write_all
from messages.ground.errors import MalformedMessage
from messages.ground.strictness import StrictModel, at_most
from messages.tasks.registry import AnyRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest, tensors_of, write_blocks

MAGIC = b"KONSILC1"
LARGEST_HEADER = 64 * 2**20
_DIGEST = 32
_PIECE = 2**22


class Unreadable(Exception):
    """The file is cut short, altered or of another form."""


class Header(StrictModel):
    """What a checkpoint holds beside tensors.

    Attributes:
        key: names all that the rest of the round follows from beside the checkpoint (`resume.key_of`).
        step: optimiser steps done. steps: of the whole round.
        loss_sum: of the losses of the steps done.
        seconds: spent on the round so far.
        scaler: state of the gradient scaler (mixed precision); empty without it.
        scores: of the received model on the validation cases, where the round asks for them.
    """

    version: Literal[1] = 1
    key: str
    round: int = Field(ge=1)
    step: int = Field(ge=0)
    steps: int = Field(ge=1)
    loss_sum: float
    seconds: float = Field(ge=0)
    scaler: Annotated[dict[str, float], at_most(16)] = {}
    scores: AnyRows | None = None
    manifest: Manifest


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole; its tensors are mapped and not decoded yet."""

    header: Header
    tensors: dict[str, Tensor]


class Checkpoints:
    """The folder of an experiment's checkpoint: that of the round in work, and of no other."""

    def __init__(self, cache: Path) -> None:
        """`cache`: the experiment's cache folder."""
        self._folder = cache / "checkpoint"

    def read_checkpoint(self, round_number: int) -> Checkpoint | None:
        """The round's checkpoint; None where there is none.

        Raises:
            Unreadable: it is damaged.
        """
        path = self._file_of(round_number)
        try:
            size = path.stat().st_size
            whole = np.memmap(path, dtype=np.uint8, mode="r") if size else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unreadable(str(error)) from error
        if whole is None or size < len(MAGIC) + 4 + _DIGEST:
            raise Unreadable("it is cut short")
        state = sha256()
        for start in range(0, size - _DIGEST, _PIECE):
            state.update(whole[start : min(start + _PIECE, size - _DIGEST)].data)
        if state.digest() != whole[size - _DIGEST :].tobytes():
            raise Unreadable("its digest is not that of its content")
        return _read_content(whole[: size - _DIGEST])

    def write_checkpoint(self, header: Header, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the round's checkpoint in place of the one before it; those of other rounds go.

        Args:
            arrays: as `header.manifest` names them; a lazy mapping is asked once for each.

        Raises:
            OSError: no space, for one; the one before it is still there.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for other in self._other_files(header.round):
            other.unlink(missing_ok=True)
        path = self._file_of(header.round)
        beside = path.with_suffix(".part")
        try:
            with beside.open("wb", buffering=0) as file:
                state = sha256()
                front = codec.pack(header.model_dump(mode="json"))
                size = len(MAGIC) + 4 + len(front) + header.manifest.nbytes + _DIGEST
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told before any work is done
                for part in _file_parts(front, header.manifest, arrays):
                    state.update(part)
                    write_all(file.fileno(), part)
                write_all(file.fileno(), state.digest())
                os.fsync(file.fileno())
            crash.pass_step("trainer:saving")
            beside.replace(path)
            sync_to_disk(self._folder)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def clear_rounds(self, up_to: int | None = None) -> None:
        """Remove checkpoints of rounds up to this one; None: all. OSError where the folder may not be written."""
        for path in self._all_files():
            number = path.stem.removeprefix("round-")
            if up_to is None or not number.isdigit() or int(number) <= up_to:
                path.unlink(missing_ok=True)

    def keep_only(self, round_number: int) -> None:
        """Remove what other rounds left, and what a kill left half-written."""
        for path in self._other_files(round_number):
            path.unlink(missing_ok=True)

    def _file_of(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:06d}.checkpoint"

    def _all_files(self) -> list[Path]:
        return [*self._folder.glob("round-*")]

    def _other_files(self, round_number: int) -> list[Path]:
        return [path for path in self._all_files() if path != self._file_of(round_number)]


def _file_parts(front: bytes, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    yield memoryview(MAGIC + len(front).to_bytes(4, "big") + front)
    for block in write_blocks(arrays, manifest):
        yield block.data


def _read_content(content: NDArray[np.uint8]) -> Checkpoint:
    at = len(MAGIC) + 4
    if content[: len(MAGIC)].tobytes() != MAGIC:
        raise Unreadable("it is not of this form")
    length = int.from_bytes(content[len(MAGIC) : at].tobytes(), "big")
    if length > min(LARGEST_HEADER, content.size - at):
        raise Unreadable("its header is too long")
    try:
        header = Header.model_validate(codec.unpack(content[at : at + length].tobytes(), max_bytes=LARGEST_HEADER))
        if header.manifest.nbytes != content.size - at - length:
            raise Unreadable("its tensors do not fill it")
        return Checkpoint(header, tensors_of(header.manifest, content[at + length :]))
    except (MalformedMessage, ValidationError, ValueError) as error:
        raise Unreadable(f"its header is not one ({type(error).__name__})") from error
