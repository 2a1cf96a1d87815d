"""Signed notes: a text that people can read, with Ed25519 signatures under it (C2SP signed-note).

    the text, lines that end with a line end

    — name base64(key id, 4 bytes, and signature, 64 bytes)

The key id is the first four bytes of SHA-256(name, line end, algorithm byte, public key). A reader passes over
signatures of keys that it does not know. The operator's register and the journal's heads are such notes.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.trust.keys import SigningKey, verify_bytes

MOST_BYTES = 2**20
MOST_SIGNATURES = 64
ED25519 = 1
"""Algorithm byte of a plain Ed25519 signature."""
ID_BYTES = 4
"""Of a key's id."""
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""All but the end of a line."""
_LINE = re.compile(r"— ([^\s+]{1,128}) ([A-Za-z0-9+/=]{1,512})")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: who says to have signed, the key's id, and the signature's bytes."""

    name: str
    key_id: bytes
    signature: bytes

    def write_line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a line end, and its signatures, checked or not."""

    text: str
    signatures: tuple[NoteSignature, ...] = ()

    def encode(self) -> bytes:
        return (self.text + "\n" + "".join(one.write_line() for one in self.signatures)).encode()

    def with_signature(self, name: str, key: SigningKey) -> Note:
        """The same note, signed by one more key under a name without spaces."""
        mark = NoteSignature(name, key_id(name, key.public), key.sign_bytes(self.text.encode()))
        return Note(self.text, (*self.signatures, mark))

    def is_signed_by(self, name: str, public: bytes) -> bool:
        """Whether a key signed it under this name. Never raises."""
        signer = (name, key_id(name, public))
        return any(
            (one.name, one.key_id) == signer and verify_bytes(public, self.text.encode(), one.signature)
            for one in self.signatures
        )


def key_id(name: str, public: bytes, algorithm: int = ED25519) -> bytes:
    """Four bytes that name a key among a note's signers."""
    return sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:ID_BYTES]


def read_note(data: bytes) -> Note:
    """Read a note; its signatures are not checked here.

    Raises:
        MalformedMessage: it is none: too large, not UTF-8, control characters, no signature, or another form.
    """
    if len(data) > MOST_BYTES:
        raise MalformedMessage(Reason.TOO_LARGE, f"a note of more than {MOST_BYTES} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise MalformedMessage(Reason.MALFORMED, "a note that is not UTF-8") from None
    text, gap, marks = whole.rpartition("\n\n")
    lines = marks.splitlines()
    if not gap or not marks.endswith("\n") or not 1 <= len(lines) <= MOST_SIGNATURES:
        raise MalformedMessage(Reason.MALFORMED, "a note is a text, an empty line and signatures")
    if _CONTROL.search(whole):
        raise MalformedMessage(Reason.MALFORMED, "a note with control characters")
    return Note(text + "\n", tuple(_read_line(line) for line in lines))


def _read_line(line: str) -> NoteSignature:
    found = _LINE.fullmatch(line)
    try:
        content = base64.b64decode(found[2], validate=True) if found else b""
    except binascii.Error:
        content = b""
    # Base64 leaves bits over in its last letter (RFC 4648, section 3.5): a signature is written in one way only.
    if found is None or len(content) <= ID_BYTES or base64.b64encode(content).decode() != found[2]:
        raise MalformedMessage(Reason.MALFORMED, "a line under a note that is no signature")
    return NoteSignature(found[1], content[:ID_BYTES], content[ID_BYTES:])
