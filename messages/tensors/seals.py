"""Seals of files, and the chunk digests behind them remembered: what was hashed once, sending need not hash again.

A seal is a digest over the chunks' digests, so it names them: what is remembered cannot be stale, only forgotten. A
file that changed after it was sealed shows at the receiver, chunk by chunk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from messages.ground.metrics import PHASES
from messages.tensors import layout
from messages.tensors.layout import Buffer, Manifest

REMEMBERED = 4
"""Transfers whose digests are kept: 32 bytes a chunk each."""


class Sealer:
    """Seals buffers and files; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, list[bytes]] = OrderedDict()

    def seal_buffer(self, manifest: Manifest, buffer: Buffer) -> str:
        """The seal of a transfer's whole buffer; one pass of hashing."""
        return self._hash_buffer(manifest, buffer)[0]

    def seal_file(self, path: Path, manifest: Manifest) -> str:
        """The seal of a transfer's file.

        Raises:
            OSError, ValueError: the file is missing or of another size.
        """
        return self.seal_buffer(manifest, map_file(path, manifest))

    def seal_of(self, manifest: Manifest, digests: list[bytes]) -> str:
        """The seal of a transfer whose chunks were hashed as they were written; ValueError if some are missing."""
        if len(digests) != manifest.chunks:
            raise ValueError(f"{len(digests)} digests, the manifest has {manifest.chunks} chunks")
        sealed = layout.seal_transfer(manifest, digests)
        with self._lock:
            self._known[sealed] = digests
            self._known.move_to_end(sealed)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return sealed

    def chunk_digests(self, manifest: Manifest, buffer: Buffer, seal: str, *, look: bool = False) -> list[bytes]:
        """The digests of a sealed buffer's chunks, in order: as remembered, or else hashed.

        Args:
            look: hash in any case: the bytes may no longer be those that were sealed.

        Raises:
            ValueError: the bytes that were hashed are not what was sealed.
        """
        with self._lock:
            known = self._known.get(seal)
        if known is not None and not look:
            return known
        found, digests = self._hash_buffer(manifest, buffer)
        if found != seal:
            raise ValueError("the bytes are not what was sealed")
        return digests

    def _hash_buffer(self, manifest: Manifest, buffer: Buffer) -> tuple[str, list[bytes]]:
        with PHASES.time_phase("hash", bytes=manifest.nbytes):
            digests = layout.chunk_digests(manifest, buffer)
        return self.seal_of(manifest, digests), digests


def map_file(path: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """A transfer's file as an array over memory mapped read-only: the kernel's to drop, not ours to hold.

    Raises:
        OSError, ValueError: the file is missing or of another size.
    """
    size = path.stat().st_size
    if size != manifest.nbytes:
        raise ValueError(f"file of {size} bytes, the manifest says {manifest.nbytes}")
    return np.memmap(path, dtype=np.uint8, mode="r") if size else np.zeros(0, dtype=np.uint8)
