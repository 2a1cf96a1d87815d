"""Signed heads of the log as checkpoints (C2SP tlog-checkpoint), and witnesses' cosignatures (C2SP tlog-cosignature).

A checkpoint is a signed note whose text is three lines: origin, size, the root in base64. The coordinator signs it
under the origin's name. A site that saw that the head follows from all that it saw before cosigns it, under its own
name and with the time of its own clock. Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from messages.ground.errors import MalformedMessage
from messages.log.tree import HASH
from messages.reasons import Reason
from messages.trust.keys import SigningKey, verify_bytes
from messages.trust.notes import MOST_SIGNATURES, Note, NoteSignature, key_id, read_note

COSIGNATURE = 4
"""Algorithm byte of a cosignature with its time (cosignature/v1)."""
_TIME_BYTES = 8
MOST_SIZE = 2**53

KeysOf = Callable[[str], tuple[bytes, ...]]
"""Party → the public keys that speak for it."""


def origin_of(consortium: str) -> str:
    """The name of a consortium's log, and of its coordinator's signatures on heads."""
    return f"konsil/{consortium}"


@dataclass(frozen=True, slots=True)
class Head:
    """What a tree was: so many entries with this root."""

    origin: str
    size: int
    root: bytes

    def write_text(self) -> str:
        """The checkpoint's text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_head(head: Head, key: SigningKey) -> Note:
    """The head as a checkpoint that the coordinator signed."""
    return Note(head.write_text()).with_signature(head.origin, key)


def read_head(note: Note, origin: str) -> Head:
    """What a checkpoint says; its signatures are not checked here.

    Raises:
        MalformedMessage: it is none, is not written in the one way, or is of another log.
    """
    lines = note.text.split("\n")
    if len(lines) != 4 or not lines[1].isascii() or not lines[1].isdigit() or len(lines[1]) > 16:
        raise MalformedMessage(Reason.MALFORMED, "not a head of a log")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except (binascii.Error, ValueError):
        root = b""
    head = Head(lines[0], int(lines[1]), root)
    if head.write_text() != note.text or len(root) != HASH or head.size >= MOST_SIZE:
        raise MalformedMessage(Reason.MALFORMED, "not a head of a log")
    if head.origin != origin:
        raise MalformedMessage(Reason.MALFORMED, "a head of another log")
    return head


def open_head(data: bytes, origin: str, keys: Iterable[bytes]) -> tuple[Head, Note]:
    """Read a checkpoint, signed by one of the coordinator's keys.

    Raises:
        MalformedMessage: it is none, or none of these keys signed it.
    """
    note = read_note(data)
    head = read_head(note, origin)
    if not any(note.is_signed_by(origin, key) for key in keys):
        raise MalformedMessage(Reason.BAD_SIGNATURE, "a head that the coordinator did not sign")
    return head, note


def cosign_head(text: str, name: str, key: SigningKey, time: int) -> NoteSignature:
    """A witness's line under a head; `time`: seconds since 1970, by its own clock."""
    signature = key.sign_bytes(_frame_cosignature(text, time))
    return NoteSignature(name, key_id(name, key.public, COSIGNATURE), time.to_bytes(_TIME_BYTES, "big") + signature)


def check_cosignature(text: str, mark: NoteSignature, keys: Iterable[bytes]) -> int | None:
    """When a witness cosigned this text with one of its keys, by its clock; None: it did not."""
    time = int.from_bytes(mark.signature[:_TIME_BYTES], "big")
    message, signature = _frame_cosignature(text, time), mark.signature[_TIME_BYTES:]
    for public in keys:
        if mark.key_id == key_id(mark.name, public, COSIGNATURE) and verify_bytes(public, message, signature):
            return time
    return None


def _frame_cosignature(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def list_witnesses(note: Note, keys_of: KeysOf) -> dict[str, int]:
    """Who cosigned a head, and when by their clocks."""
    found: dict[str, int] = {}
    for mark in note.signatures:
        time = check_cosignature(note.text, mark, keys_of(mark.name))
        if time is not None:
            found[mark.name] = time
    return found


def add_cosignatures(note: Note, marks: Iterable[NoteSignature]) -> Note:
    """The note with more signatures under it, as many as a note may have."""
    have = {(one.name, one.key_id) for one in note.signatures}
    more = [one for one in marks if (one.name, one.key_id) not in have]
    return Note(note.text, (*note.signatures, *more)[:MOST_SIGNATURES])
