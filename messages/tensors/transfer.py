"""Transfers: chunks on the wire, and receiving them into a file that survives a kill.

A transfer is (experiment, round, sender, attempt). Each chunk repeats the whole's size, so any chunk opens the
transfer and none has to come first; the manifest of names and shapes travels in the event that seals it, which may
arrive before or after the chunks. Chunk on the wire: 2 bytes big-endian length of the header, msgpack header, data.
A signed header (version 2) also has the name of its author's key, and the signature.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from messages import codec
from messages.ground.durable import sync_to_disk, write_all
from messages.ground.errors import MalformedMessage
from messages.ground.metrics import PHASES
from messages.ground.naming import EXPERIMENT_ID, NAME
from messages.reasons import Reason
from messages.tensors import layout
from messages.tensors.layout import Manifest

MAX_HEADER = 1024
_RECORD = 4 + 32
SIGNATURE_BYTES, MOST_SIGNER = 64, 64
_PLAIN: list[type] = [int, str, int, str, *[int] * 4, bytes]
_SIGNED: list[type] = [*_PLAIN, str, bytes]
"""What a header holds: of version 1, and of version 2, which is signed."""


@dataclass(frozen=True, slots=True, order=True)
class TransferKey:
    """Names a transfer."""

    experiment: str
    round: int
    sender: str
    attempt: int = 1

    @property
    def stem(self) -> str:
        """File name without suffix; names are `[a-z0-9-]`, so it cannot leave its folder."""
        return f"{self.experiment}.{self.round}.{self.sender}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """`total` is the buffer's bytes, `size` the chunk length all but the last one have. `signer`, `signature`: the name
    of its author's key and 64 bytes, where it is signed (`messages.tensors.signed_chunks`)."""

    key: TransferKey
    index: int
    size: int
    total: int
    digest: bytes
    signer: str = ""
    signature: bytes = b""


def encode_chunk(header: ChunkHeader, data: memoryview | bytes) -> bytes:
    """One message, as a copy; what is sent goes as `chunk_pieces`."""
    return b"".join(chunk_pieces(header, data))


def chunk_pieces(header: ChunkHeader, data: memoryview | bytes) -> tuple[bytes, memoryview | bytes]:
    """One message for `Bus.publish`: header, and the data itself, which must stay as it is until the confirm."""
    key = header.key
    place = [key.experiment, key.round, key.sender, key.attempt]
    fields = [*place, header.index, header.size, header.total, header.digest]
    packed = codec.pack([2, *fields, header.signer, header.signature] if header.signature else [1, *fields])
    return len(packed).to_bytes(2, "big") + packed, data


def decode_chunk(
    body: bytes, check: Callable[[ChunkHeader], None] = lambda _header: None
) -> tuple[ChunkHeader, memoryview]:
    """Header and data (a view, not a copy), digest checked.

    Args:
        check: raises where the chunk is not to be taken; asked before the data are looked at.

    Raises:
        MalformedMessage: not a chunk, inconsistent sizes, or data that does not match its digest (wrong-digest).
    """
    length = int.from_bytes(body[:2], "big")
    if len(body) < 2 or length > MAX_HEADER or len(body) < 2 + length:
        raise MalformedMessage(Reason.MALFORMED, "not a chunk")
    fields = codec.unpack(body[2 : 2 + length], max_bytes=MAX_HEADER)
    data = memoryview(body)[2 + length :]
    types = [type(field) for field in fields] if isinstance(fields, list) else []
    if types not in (_PLAIN, _SIGNED):
        raise MalformedMessage(Reason.WRONG_TYPE, "chunk header of another form")
    version, experiment, round_number, sender, attempt, index, size, total, digest, *signed = fields
    if version != (2 if signed else 1):
        raise MalformedMessage(Reason.UNKNOWN_SCHEMA, "unknown chunk version")
    if signed and (len(signed[0]) > MOST_SIGNER or len(signed[1]) != SIGNATURE_BYTES):
        raise MalformedMessage(Reason.MALFORMED, "chunk header is inconsistent")
    names_fit = EXPERIMENT_ID.fullmatch(experiment) and NAME.fullmatch(sender)
    sizes_fit = 1024 <= size <= 8 * 2**20 and index >= 0 and len(data) == min(size, total - index * size) > 0
    numbers_fit = 0 <= round_number <= 1_000_000 and 0 <= attempt <= 2**53 and total <= layout.MAX_BYTES
    if not names_fit or not sizes_fit or not numbers_fit:
        raise MalformedMessage(Reason.MALFORMED, "chunk header is inconsistent")
    key = TransferKey(experiment, round_number, sender, attempt)
    header = ChunkHeader(key, index, size, total, digest, *signed)
    check(header)
    with PHASES.time_phase("hash", bytes=len(data)):
        found = sha256(data).digest()
    if found != digest:
        raise MalformedMessage(Reason.WRONG_DIGEST, "chunk does not match its digest")
    return header, data


class Incoming:
    """A transfer being received: `<stem>.part` holds the bytes in place, `<stem>.have` which chunks are there.

    A kill at any moment loses at most chunks that were not yet recorded; opening again checks what is recorded
    against its digests, so that a torn write is noticed and asked for again.

    Args:
        folder: where both files live.
        total: bytes of the whole; bounded by the caller before.
    """

    def __init__(self, folder: Path, key: TransferKey, *, size: int, total: int) -> None:
        self.key, self.size, self.total = key, size, total
        self.chunks = -(-total // size)
        self._part = folder / f"{key.stem}.part"
        self._have = folder / f"{key.stem}.have"
        self._digests: dict[int, bytes] = {}
        resumed = self._part.exists() and self._have.exists() and self._part.stat().st_size == total
        self._data = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o600)
        if resumed:
            self._restore_chunks()
        else:
            os.ftruncate(self._data, total)
        # Written beside and moved: a kill while opening must not lose the record of what is there.
        fresh = self._have.with_name(self._have.name + ".new")
        self._log = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        write_all(self._log, b"".join(i.to_bytes(4, "big") + d for i, d in self._digests.items()))
        os.replace(fresh, self._have)
        self._closed = False

    def _restore_chunks(self) -> None:
        recorded = self._have.read_bytes()
        for start in range(0, len(recorded) - _RECORD + 1, _RECORD):
            index = int.from_bytes(recorded[start : start + 4], "big")
            digest = recorded[start + 4 : start + _RECORD]
            if index < self.chunks:
                data = os.pread(self._data, min(self.size, self.total - index * self.size), index * self.size)
                if sha256(data).digest() == digest:
                    self._digests[index] = digest

    def add_chunk(self, header: ChunkHeader, data: memoryview) -> bool:
        """Store a chunk (checked by `decode_chunk`); False if it was there. ValueError if it is of another shape."""
        if (header.key, header.size, header.total) != (self.key, self.size, self.total):
            raise ValueError("chunk of another transfer")
        if self._digests.get(header.index) == header.digest:
            return False
        if self._closed:
            raise ValueError("the transfer was closed")
        with PHASES.time_phase("spool", bytes=len(data)):
            write_all(self._data, data, header.index * self.size)
            write_all(self._log, header.index.to_bytes(4, "big") + header.digest)
        self._digests[header.index] = header.digest
        return True

    @property
    def received(self) -> int:
        """Chunks that are there."""
        return len(self._digests)

    @property
    def complete(self) -> bool:
        """Whether every chunk is there; cheap enough to ask after each one."""
        return len(self._digests) == self.chunks

    def list_missing(self) -> list[int]:
        """Indices still to come; looks at each chunk."""
        return [index for index in range(self.chunks) if index not in self._digests]

    def finish(self, manifest: Manifest, seal: str, destination: Path, *, durable: bool = True) -> None:
        """Check the seal, make the bytes durable and move them to `destination`.

        Args:
            durable: False where a loss costs nothing but asking again, and the file is checked before it is used.

        Raises:
            MalformedMessage: wrong-shape (the manifest's size differs), wrong-digest (chunks are not those sealed).
            ValueError: chunks are missing.
        """
        if (manifest.nbytes, manifest.chunk_bytes) != (self.total, self.size):
            raise MalformedMessage(Reason.WRONG_SHAPE, "manifest and chunks differ in size")
        if not self.complete:
            raise ValueError("chunks are missing")
        if layout.seal_transfer(manifest, (self._digests[index] for index in range(self.chunks))) != seal:
            raise MalformedMessage(Reason.WRONG_DIGEST, "chunks are not those that were sealed")
        if durable:
            with PHASES.time_phase("spool"):
                os.fsync(self._data)
        self.close()
        os.replace(self._part, destination)
        if durable:
            sync_to_disk(destination.parent)
        self._have.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files and keep them; idempotent."""
        # Once only: a descriptor's number belongs to somebody else's file soon after.
        if not self._closed:
            self._closed = True
            os.close(self._data)
            os.close(self._log)

    def discard(self) -> None:
        """Close and remove."""
        self.close()
        self._part.unlink(missing_ok=True)
        self._have.unlink(missing_ok=True)
