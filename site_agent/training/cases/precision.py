"""Which format of numbers a preprocessed case is kept in: float16 where that loses nothing that counts, else float32.

A z-score needs no more than float16 has (11 bits: a relative error of 5e-4 at most), and it halves disk and page cache.
Not so where a few voxels are so bright that all others lie together: then the steps of float16 are as wide as what
tells tissues apart. Values that are not normalised are kept exactly: float16 has no number above 65,504, not every
integer above 2,048, and few small ones.

The choice follows from the case as the files have it and from the experiment, so it is known before anything is made,
and stands in the case's key.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from messages.sections import Preprocessing

NumberFormat = Literal["float16", "float32"]
_SAMPLE = 100_000
_LEAST_STEPS = 16
"""Steps of float16 that have to lie between the 5th and the 95th percentile of z-scores."""


def choose_format(image: NDArray[np.float32], settings: Preprocessing) -> NumberFormat:
    """The format for one case.

    Args:
        image: (C, X, Y, Z), as the files have it.
    """
    own = {one.channel - 1 for one in settings.intensities}  # clipped: float16 tells them apart
    channels = [channel for place, channel in enumerate(image) if place not in own]
    if settings.normalise == "none":
        resampled = settings.spacing_mm is not None or (settings.size is not None and settings.fit == "resize")
        exact = not resampled and all(holds_exactly(channel) for channel in channels)
    else:
        nonzero = settings.normalise == "zscore-nonzero"
        exact = all(_is_spread(channel[channel != 0] if nonzero else channel.ravel()) for channel in channels)
    return "float16" if exact else "float32"


def holds_exactly(values: NDArray[np.float32]) -> bool:
    """Whether float16 holds each of these values as it is."""
    with np.errstate(all="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _is_spread(values: NDArray[np.float32]) -> bool:
    """Whether float16 tells most of the z-scores apart; the most frequent value (background) does not count."""
    sample = values[:: max(1, values.size // _SAMPLE)]
    found, counts = np.unique(sample, return_counts=True)
    if found.size < 3:  # a mask: all its values are apart
        return True
    rest = sample[sample != found[counts.argmax()]]
    deviation = float(np.std(values, dtype=np.float64))
    if not 0 < deviation < np.inf:
        return True  # there is no z-score: it is left out
    low, high = (np.percentile(rest, (5, 95)) - float(np.mean(values, dtype=np.float64))) / deviation
    step = float(np.spacing(np.float16(min(max(abs(low), abs(high)), 6e4))))
    return bool(high - low >= _LEAST_STEPS * step)
