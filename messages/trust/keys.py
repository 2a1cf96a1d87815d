"""Ed25519 keys (RFC 8032): made, kept in a file, named by a fingerprint, and their signatures checked strictly.

`cryptography` does the arithmetic. Strict means: one signature has one form (S below the group's order, RFC 8032,
section 5.1.7; OpenSSL checks it), and a key of small order is none (under it one signature fits many messages).
Whatever is signed begins with a line that says what it is (`context`), so that a signature made for one purpose is
worth nothing for another.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from messages.ground.durable import replace_file
from messages.ground.errors import ConfigError, RequestError

PUBLIC_BYTES, SIGNATURE_BYTES = 32, 64
_PRIME = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDERS = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})
"""The y coordinates of all points whose order divides 8, on the curve of RFC 8032, section 5.1."""
_CONSONANTS, _VOWELS = "bdfghjklmnprstvz", "aiou"


class SigningKey:
    """A private key of Ed25519."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        """32 bytes."""

    def __repr__(self) -> str:
        return f"SigningKey({self.fingerprint[:16]})"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.public)

    def sign_message(self, context: str, message: bytes) -> bytes:
        """64 bytes over a context, a line such as "konsil event 1", and a message."""
        return self._key.sign(_frame_message(context, message))

    def sign_bytes(self, message: bytes) -> bytes:
        """64 bytes over a message alone, where its own format says what it is (a note's text)."""
        return self._key.sign(message)


def make_key() -> SigningKey:
    """A fresh key out of the system's randomness."""
    return SigningKey(Ed25519PrivateKey.generate())


def derive_key(seed: bytes) -> SigningKey:
    """The key of 32 secret bytes: for simulations and tests, whose runs repeat to the bit."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(seed))


def verify_message(public: bytes, context: str, message: bytes, signature: bytes) -> bool:
    """Whether a key has signed this message in this context. Never raises, whatever the bytes are."""
    return verify_bytes(public, _frame_message(context, message), signature)


def verify_bytes(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a key has signed exactly these bytes (`SigningKey.sign_bytes`). Never raises."""
    try:
        key = _read_public(bytes(public))
        if key is None or len(signature) != SIGNATURE_BYTES:
            return False
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=4096)
def _read_public(public: bytes) -> Ed25519PublicKey | None:
    """A key, read once; None where it is none."""
    try:
        return Ed25519PublicKey.from_public_bytes(public) if is_usable(public) else None
    except ValueError:
        return None


def is_usable(public: bytes) -> bool:
    """Whether 32 bytes can be a key of somebody: encoded in the one way (y below 2^255 - 19), of no small order."""
    if len(public) != PUBLIC_BYTES:
        return False
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return y < _PRIME and y not in _SMALL_ORDERS


def _frame_message(context: str, message: bytes) -> bytes:
    return context.encode() + b"\n" + message


def fingerprint_of(public: bytes) -> str:
    """SHA-256 of the public key's 32 bytes, in hex."""
    return sha256(public).hexdigest()


def say_fingerprint(public: bytes) -> str:
    """The first 128 bits of a fingerprint as eight words that people can read to each other over the phone."""
    return say_digest(fingerprint_of(public))


def say_digest(hexadecimal: str) -> str:
    """The first 128 bits of a digest (hex) as eight words.

    A word is a proquint: 16 bits as consonant, vowel, consonant, vowel, consonant (Wilkerson 2009, arXiv:0901.4016).
    """
    digest = bytes.fromhex(hexadecimal)
    return " ".join(_say_word(int.from_bytes(digest[place : place + 2], "big")) for place in range(0, 16, 2))


def _say_word(number: int) -> str:
    letters = []
    for shift, alphabet in ((12, _CONSONANTS), (10, _VOWELS), (6, _CONSONANTS), (4, _VOWELS), (0, _CONSONANTS)):
        letters.append(alphabet[(number >> shift) & (len(alphabet) - 1)])
    return "".join(letters)


def write_key(key: SigningKey, path: Path, passphrase: bytes | None = None) -> None:
    """Keep a key as PEM (PKCS #8, RFC 5958), mode 0600, encrypted under a passphrase where there is one.

    Raises:
        RequestError: there is a file already, or it cannot be written.
    """
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    data = key._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    if path.exists():
        raise RequestError("there is a key already", where=str(path), advice="Move it away first if it is not used")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, data, mode=0o600)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None


def read_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Read a key that `write_key` wrote.

    Raises:
        ConfigError: it cannot be read, others may read it, it is no Ed25519 key, or the passphrase is missing or wrong.
    """
    try:
        data = path.read_bytes()
        readable = path.stat().st_mode & 0o077
    except OSError as error:
        raise ConfigError(f"the key cannot be read ({error.strerror})", where=str(path)) from None
    if readable and os.geteuid() == path.stat().st_uid:
        raise ConfigError("others may read this key", where=str(path), advice=f"chmod 600 {path}")
    return load_key(data, passphrase, where=str(path))


def load_key(data: bytes, passphrase: bytes | None = None, *, where: str) -> SigningKey:
    """A key out of PEM; ConfigError as in `read_key`."""
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except TypeError:
        words = "needs a passphrase" if passphrase is None else "has no passphrase, and one is given"
        raise ConfigError(f"the key {words}", where=where) from None
    except ValueError:
        words = "no private key in PEM" if passphrase is None else "no private key in PEM, or the passphrase is wrong"
        raise ConfigError(words, where=where) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("the key is not of Ed25519", where=where, advice="Make one with `konsil provision request`")
    return SigningKey(key)
