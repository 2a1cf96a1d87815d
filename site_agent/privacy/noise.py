"""Gaussian noise on the grid of the sums, from AES in counter mode: nobody without the site's secret can foretell it.

The noise is rounded to the grid on which the sum lies already. So sum and noise together are what the Gaussian
mechanism gives (Dwork and Roth 2014), rounded afterwards, which costs no privacy. A value is a Gaussian's up to the
error of float64, which is 2^-30 of a step of the grid and less (`CLIP_UNITS`).

The noise of a step is keyed by the very sum that it is added to. So a repetition that gives the same sum gives the same
noise. One that does not (a GPU without deterministic operations) gets other noise: their difference tells nothing.
"""

from __future__ import annotations

import math
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from site_agent.privacy.grid import CLIP_UNITS
from site_agent.privacy.keys import derive_part, open_stream

_PAIRS = 2**16
"""Drawn at a time: they stay in the core's cache."""


def add_noise(key: bytes, step: int, total: NDArray[np.int64], noise_multiplier: float) -> NDArray[np.int64]:
    """A step's sum with its noise, whole numbers of the grid.

    Args:
        key: of the round's noise. step: from 0. total: the sum of the drawn patients' gradients, contiguous.
        noise_multiplier: standard deviation in units of the clipping norm.
    """
    return total + draw_noise(key_noise(key, step, total), total.size, noise_multiplier * CLIP_UNITS)


def key_noise(key: bytes, step: int, total: NDArray[np.int64]) -> bytes:
    """The key of the noise that is added to this very sum."""
    return derive_part(key, step, sha256(total.data).digest())


def draw_noise(key: bytes, count: int, deviation: float) -> NDArray[np.int64]:
    """So many independent Gaussians of this standard deviation, each rounded to a whole number.

    By Box and Muller (1958): 64 bits decide a radius, so values beyond 9.4 deviations are cut off (less than 1e-20 of
    them), and 53 an angle.
    """
    stream = open_stream(key)
    found = np.empty(count, dtype=np.int64)
    for begin in range(0, count, 2 * _PAIRS):
        part = found[begin : begin + 2 * _PAIRS]
        pairs = -(-part.size // 2)
        words = np.frombuffer(stream.update(bytes(16 * pairs)), dtype="<u8")
        radius = np.sqrt(-2 * np.log((words[:pairs] + 0.5) * 2.0**-64)) * deviation
        angle = (words[pairs:] >> np.uint64(11)) * (2 * math.pi * 2.0**-53)
        part[:pairs] = np.rint(radius * np.cos(angle))
        part[pairs:] = np.rint(radius * np.sin(angle))[: part.size - pairs]
    return found
