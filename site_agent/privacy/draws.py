"""Who is drawn into a step: each patient by itself, with the same chance (Poisson sampling).

The amplification that the accounting reckons with holds for this way of drawing (Abadi et al. 2016), and not for
shuffled batches of a fixed size (Annamalai et al. 2024).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from site_agent.privacy.keys import derive_part, open_stream


def draw_patients(key: bytes, step: int, patients: int, sample_rate: float) -> NDArray[np.int64]:
    """The patients of a step, ascending, each at most once; there may be none.

    Each is in with a chance of `sample_rate`, rounded down to a multiple of 2^-64, whoever else is.

    Args:
        key: of the round's draws. step: from 0. patients: how many there are.
    """
    words = np.frombuffer(open_stream(derive_part(key, step)).update(bytes(8 * patients)), dtype="<u8")
    threshold = int(Fraction(sample_rate) * 2**64)
    if threshold >= 2**64:
        return np.arange(patients)
    return np.flatnonzero(words < np.uint64(threshold))
