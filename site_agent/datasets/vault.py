"""Files that are encrypted at rest: AES-256-GCM in chunks, under keys that derive from the site's secret.

Each file has a key of its own (HKDF, RFC 5869, over the site's secret with a random salt), so that no nonce is used
twice; chunks are numbered and the last one is marked (the STREAM construction, Hoang et al. 2015, CRYPTO), so that a
file that was cut short, or whose chunks were moved, does not open. Without the state folder's secret nothing does.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUFFIX = ".enc"
CASES, ARRAYS = "datasets", "training-cache"
"""Purposes: prepared cases from DICOM; preprocessed arrays."""
CHUNK = 2**20
_MAGIC = b"konsil\x00\x01"
_SALT = 16
_TAG = 16


class Damaged(ValueError):
    """The bytes are not what was encrypted under this key: changed, cut short, or of another site."""


class Vault:
    """Encrypts and decrypts whole files in memory.

    Args:
        secret: the site's own; an empty one is refused.
        purpose: what the files are for: files of one purpose do not open under another's key.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        if not secret:
            raise ValueError("encryption needs the site's secret")
        self._secret, self._purpose = secret, purpose

    def seal(self, content: bytes | memoryview) -> bytes:
        """Encrypt; the result is longer by 24 bytes, and by 16 for each MiB that was begun."""
        view, salt = memoryview(content).cast("B"), secrets.token_bytes(_SALT)
        cipher, parts = self._make_cipher(salt), [_MAGIC, salt]
        count = max(1, -(-len(view) // CHUNK))
        for number in range(count):
            chunk = view[number * CHUNK : (number + 1) * CHUNK]
            parts.append(cipher.encrypt(_make_nonce(number, last=number == count - 1), chunk, None))
        return b"".join(parts)

    def make_key(self, use: str) -> bytes:
        """A key of 32 bytes for another use than encrypting: for digests that lie beside encrypted files."""
        return hmac.new(self._secret, b"konsil-vault-key\xff" + f"{self._purpose}\xff{use}".encode(), sha256).digest()

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Decrypt what `seal` made; raises Damaged."""
        view = memoryview(sealed).cast("B")
        head = len(_MAGIC) + _SALT
        if len(view) < head + _TAG or view[: len(_MAGIC)] != _MAGIC:
            raise Damaged("not a file that was encrypted here")
        cipher, body = self._make_cipher(bytes(view[len(_MAGIC) : head])), view[head:]
        step = CHUNK + _TAG
        count = -(-len(body) // step)
        parts = []
        for number in range(count):
            try:
                chunk = body[number * step : (number + 1) * step]
                parts.append(cipher.decrypt(_make_nonce(number, last=number == count - 1), chunk, None))
            except InvalidTag:
                raise Damaged("changed, cut short, or encrypted under another secret") from None
        return b"".join(parts)

    def _make_cipher(self, salt: bytes) -> AESGCM:
        info = b"konsil-vault\xff" + self._purpose.encode()
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(self._secret))


def _make_nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
