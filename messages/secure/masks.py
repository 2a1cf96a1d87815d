"""Masks: AES-256-CTR keystreams, added to words modulo their size, in place and by block.

A masked update is a buffer of bytes: first words of 32 bits (weights), then words of 64 bits (pooled figures), all
little-endian (`WordLayout`). The keystream under a zero counter block (NIST SP 800-38A, section 6.5) covers the buffer
byte for byte; each key is used for one buffer. A site adds the mask of a peer behind it in the order of names, and
subtracts that of a peer before it: in the sum of all both cancel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from messages.secure.context import Context
from messages.secure.keys import SiteSecrets, pair_mask_key, self_mask_key

MASK_BLOCK = 2**18
"""Bytes at a time: block, keystream and zeros stay in a core's second cache."""
_NOTHING = memoryview(bytes(MASK_BLOCK))


@dataclass(frozen=True, slots=True)
class WordLayout:
    """What a masked buffer holds: `words32` words of 32 bits, and behind them `words64` words of 64 bits."""

    words32: int
    words64: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return 4 * self.words32 + 8 * self.words64


@dataclass(frozen=True, slots=True)
class Mask:
    """One keystream, and whether it is added or subtracted."""

    key: bytes = field(repr=False)
    sign: Literal[1, -1]


def sign_of(own: str, peer: str) -> Literal[1, -1]:
    """Whether `own` adds (1) or subtracts (-1) the mask that it shares with `peer`."""
    return 1 if own < peer else -1


def masks_of_site(secrets: SiteSecrets, context: Context, own: str) -> list[Mask]:
    """All that a site puts on its update: its own mask, and one for each peer of U2.

    Raises:
        ValueError: a peer's key is of small order. KeyError: a site outside the roster.
    """
    pairs = (
        Mask(pair_mask_key(secrets.mask_loaded, own, peer, context), sign_of(own, peer))
        for peer in context.sites
        if peer != own
    )
    return [Mask(self_mask_key(secrets.self_seed, own, context), 1), *pairs]


def add_masks(buffer: NDArray[np.uint8], layout: WordLayout, masks: Sequence[Mask]) -> None:
    """Add masks to a buffer, in place; memory of three blocks, whatever the sizes.

    Args:
        buffer: contiguous, writable, `layout.nbytes` long (shorter or longer: ValueError).
    """
    _check_length(buffer, layout)
    streams = [(Cipher(AES(one.key), CTR(bytes(16))).encryptor(), one.sign) for one in masks]
    stream = np.empty(min(MASK_BLOCK, layout.nbytes) + 16, np.uint8)
    for start, end, dtype in _each_block(layout):
        words, size = buffer[start:end].view(dtype), end - start
        for encryptor, sign in streams:
            encryptor.update_into(_NOTHING[:size], stream.data)
            (np.add if sign > 0 else np.subtract)(words, stream[:size].view(dtype), out=words)


def remove_masks(buffer: NDArray[np.uint8], layout: WordLayout, masks: Iterable[Mask]) -> None:
    """Undo `add_masks`."""
    add_masks(buffer, layout, [Mask(one.key, 1 if one.sign < 0 else -1) for one in masks])


def add_words(total: NDArray[np.uint8], part: NDArray[np.uint8], layout: WordLayout) -> None:
    """Add one buffer to another, word by word modulo their size, in place and by block.

    Args:
        total: as `add_masks`.
        part: of the same length; may be a mapped file.
    """
    _check_length(total, layout)
    _check_length(part, layout)
    for start, end, dtype in _each_block(layout):
        words = total[start:end].view(dtype)
        np.add(words, part[start:end].view(dtype), out=words)


def _each_block(layout: WordLayout) -> Iterator[tuple[int, int, str]]:
    """First byte, end and type of the words of each block, in the buffer's order."""
    middle = 4 * layout.words32
    for first, last, dtype in ((0, middle, "<u4"), (middle, layout.nbytes, "<u8")):
        for start in range(first, last, MASK_BLOCK):
            yield start, min(start + MASK_BLOCK, last), dtype


def _check_length(buffer: NDArray[np.uint8], layout: WordLayout) -> None:
    if buffer.dtype != np.uint8 or buffer.shape != (layout.nbytes,):
        raise ValueError(f"a masked buffer has {layout.nbytes} bytes here, not {buffer.dtype} {buffer.shape}")
