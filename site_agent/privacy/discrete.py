"""The discrete Gaussian, exactly (Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy").

Under `noise = "shared"` the noises of several sites add up. Rounded Gaussians would not do: a sum of rounded numbers is
no rounded sum. Discrete Gaussians on whole numbers add up to one of the sum of their variances, but for a difference
below 10 * n * exp(-pi^2 * variance) (Kairouz, Liu and Steinke 2021), which is nothing at `LEAST_DEVIATION`.

Their algorithm 3: a discrete Laplace number is proposed, and kept with a chance that follows from it. Both steps
compare a uniform number with one that is computed in float64. Where that error could decide, it is decided with 60
digits, and the uniform number gets more bits. So what comes out has the very distribution, and the work is numpy's.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from messages.secure.shared import LEAST_DEVIATION
from site_agent.privacy.keys import derive_part, open_stream

MOST_DEVIATION = 2**40
_DIGITS = Context(prec=60)
_MORE_BITS = 128
_BLOCK = 2**15
_DOUBT = 2.0**-30
"""More than the relative error of the logarithms and exponentials here, by a factor of 10^5 and more."""


def draw_discrete(key: bytes, count: int, deviation: float) -> NDArray[np.int64]:
    """So many independent numbers, each k with a chance in proportion to exp(-k^2 / (2 * deviation^2)).

    Args:
        key: used for nothing else.
        deviation: from `LEAST_DEVIATION` to `MOST_DEVIATION`; ValueError outside.
    """
    if not LEAST_DEVIATION <= deviation <= MOST_DEVIATION:
        raise ValueError(f"a deviation of {deviation} steps of the grid")
    found, have, block = np.empty(count, dtype=np.int64), 0, 0
    while have < count:
        kept = _propose_block(derive_part(key, block), deviation)[: count - have]
        found[have : have + kept.size] = kept
        have, block = have + kept.size, block + 1
    return found


def _propose_block(key: bytes, deviation: float) -> NDArray[np.int64]:
    """What is kept of a block of proposals; a little more than three of four."""
    words = np.frombuffer(open_stream(key).update(bytes(8 * 3 * _BLOCK)), dtype="<u8").reshape(3, _BLOCK)
    scale = math.floor(deviation) + 1
    sizes = _draw_geometric(key, words[0], scale)
    negative = (words[1] & np.uint64(1)).astype(bool)
    kept = _keep_by_chance(key, words[2], sizes, deviation, scale) & ~(negative & (sizes == 0))
    found: NDArray[np.int64] = np.where(negative, -sizes, sizes)[kept]
    return found


def _draw_geometric(key: bytes, words: NDArray[np.uint64], scale: int) -> NDArray[np.int64]:
    """floor(-scale * ln(U)) of uniform numbers U: m with a chance in proportion to exp(-m / scale)."""
    exact = -scale * np.log((words.astype(np.float64) + 0.5) * 2.0**-64)
    sizes = np.floor(exact)
    # Also where U is so small that its further bits count.
    close = np.abs(exact - np.rint(exact)) <= (exact + scale) * _DOUBT
    for place in np.flatnonzero(close | (words < 2**34)):
        uniform = _refine_uniform(key, 0, int(place), int(words[place]))
        sizes[place] = math.floor(_DIGITS.multiply(Decimal(-scale), _DIGITS.ln(uniform)))
    whole: NDArray[np.int64] = sizes.astype(np.int64)
    return whole


def _keep_by_chance(
    key: bytes, words: NDArray[np.uint64], sizes: NDArray[np.int64], deviation: float, scale: int
) -> NDArray[np.bool_]:
    """Whether U < exp(-(m - variance / scale)^2 / (2 * variance)), of uniform numbers U."""
    variance = deviation * deviation
    chance = np.exp(-((sizes - variance / scale) ** 2) / (2 * variance))
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-64
    kept: NDArray[np.bool_] = uniform < chance
    for place in np.flatnonzero(np.abs(uniform - chance) <= chance * _DOUBT + 2.0**-50):
        kept[place] = _refine_uniform(key, 1, int(place), int(words[place])) < _find_chance(
            int(sizes[place]), Decimal(deviation), scale
        )
    return kept


def _find_chance(size: int, deviation: Decimal, scale: int) -> Decimal:
    variance = _DIGITS.multiply(deviation, deviation)
    away = _DIGITS.subtract(Decimal(size), _DIGITS.divide(variance, Decimal(scale)))
    half = _DIGITS.divide(_DIGITS.multiply(away, away), _DIGITS.multiply(Decimal(2), variance))
    return _DIGITS.exp(-half)


def _refine_uniform(key: bytes, use: int, place: int, word: int) -> Decimal:
    """The uniform number whose first 64 bits are `word`, with as many more as decide anything."""
    more = int.from_bytes(derive_part(key, use, place)[: _MORE_BITS // 8], "big")
    bits = 64 + _MORE_BITS
    return _DIGITS.divide(Decimal(2 * ((word << _MORE_BITS) + more) + 1), Decimal(2 ** (bits + 1)))
