"""Secret random numbers of a private round: the same when a round is repeated, and never for another one.

All of them come from the site's secret and from what identifies the round's work (`training.resuming.resume.key_of`:
the model received, the data, the experiment, the software), by HKDF-SHA256 (RFC 5869) and HMAC-SHA256 (RFC 2104).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from messages import codec

_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class RoundKeys:
    """What a round's secret numbers are made of, 32 bytes each.

    Attributes:
        draws: who is drawn into which step. noise: what is added to each sum. cuts: where patches lie, and how they
            are varied; dropout.
    """

    draws: bytes
    noise: bytes
    cuts: bytes


def derive_keys(secret: bytes, work: str, groups: Sequence[Sequence[int]]) -> RoundKeys:
    """The keys of one round's work at a site.

    Args:
        secret: the site's own; an empty one is refused.
        work: what identifies the round's work.
        groups: the patients, each by the numbers of its cases: another grouping of the same cases is another data set.

    Raises:
        ValueError: no secret.
    """
    if not secret:
        raise ValueError("private training needs the site's secret")
    context = codec.canonical([work, [list(cases) for cases in groups]])

    def derive(purpose: str) -> bytes:
        info = b"konsil dp " + purpose.encode() + b"\xff" + sha256(context).digest()
        return HKDF(SHA256(), _BYTES, salt=None, info=info).derive(secret)

    return RoundKeys(draws=derive("draws"), noise=derive("noise"), cuts=derive("cuts"))


def derive_part(key: bytes, *parts: int | bytes) -> bytes:
    """A key for a part of what another one is for (32 bytes); differs for any different parts."""
    return hmac.new(key, codec.canonical(list(parts)), sha256).digest()


def derive_number(key: bytes, *parts: int | bytes) -> int:
    """A secret number in [0, 2**63), for generators that are seeded by one."""
    return int.from_bytes(derive_part(key, *parts)[:8], "big") >> 1


def open_stream(key: bytes) -> CipherContext:
    """Random bytes without end: AES-256 in counter mode (SP 800-38A) from 0; a key is used for one stream."""
    return Cipher(AES(key), CTR(bytes(16))).encryptor()
