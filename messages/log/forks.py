"""The operator's word that the log goes on from an older state of itself, since the coordinator's journal was restored.

A signed note of the operator (`messages.trust.notes`): what it is, the log's origin, the first term under which the log
goes on, and the head of what was restored. Witnesses accept it, and tell it for ever. Pure.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.trust.keys import SigningKey
from messages.trust.notes import Note, read_note
from messages.trust.register import OPERATOR

HEADING = "konsil fork 1"
_LINES = re.compile(rf"{HEADING}\n([^\n]+)\nterm (\d{{1,16}})\nsize (\d{{1,16}})\nroot ([A-Za-z0-9+/]{{43}}=)\n")


@dataclass(frozen=True, slots=True)
class DeclaredFork:
    """Under `term` and later ones the log goes on from its first `size` entries, whose root is `root`."""

    origin: str
    term: int
    size: int
    root: bytes

    def write_text(self) -> str:
        """The note's text."""
        root = base64.b64encode(self.root).decode()
        return f"{HEADING}\n{self.origin}\nterm {self.term}\nsize {self.size}\nroot {root}\n"


def sign_fork(fork: DeclaredFork, operator: SigningKey) -> bytes:
    """The declaration as its file."""
    return Note(fork.write_text()).with_signature(OPERATOR, operator).encode()


def read_fork(data: bytes, origin: str, operator: bytes) -> DeclaredFork:
    """Read a declaration and check the operator's signature.

    Raises:
        MalformedMessage: it is none, is of another log, or the operator did not sign it.
    """
    note = read_note(data)
    found = _LINES.fullmatch(note.text)
    if found is None or found[1] != origin:
        raise MalformedMessage(Reason.MALFORMED, "not a declared fork of this log")
    if not note.is_signed_by(OPERATOR, operator):
        raise MalformedMessage(Reason.BAD_SIGNATURE, "a declared fork that the operator did not sign")
    return DeclaredFork(found[1], int(found[2]), int(found[3]), base64.b64decode(found[4]))
