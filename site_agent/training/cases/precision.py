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

from messages.sections import Intensities, Preprocessing
from site_agent.datasets.look import is_spread

NumberFormat = Literal["float16", "float32"]
MOST_HALF = 65504.0
"""The largest number of float16."""


def choose_format(image: NDArray[np.float32], settings: Preprocessing) -> NumberFormat:
    """The format for one case.

    Args:
        image: (C, X, Y, Z), as the files have it.
    """
    own = {one.channel - 1: one for one in settings.intensities}
    channels = [channel for place, channel in enumerate(image) if place not in own]
    if not all(_holds_scaled(image[place], one) for place, one in own.items() if place < len(image)):
        return "float32"
    if settings.normalise == "none":
        resampled = settings.spacing_mm is not None or (settings.size is not None and settings.fit == "resize")
        exact = not resampled and all(holds_exactly(channel) for channel in channels)
    else:
        nonzero = settings.normalise == "zscore-nonzero"
        exact = all(is_spread(channel[channel != 0] if nonzero else channel.ravel()) for channel in channels)
    return "float16" if exact else "float32"


def holds_exactly(values: NDArray[np.float32]) -> bool:
    """Whether float16 holds each of these values as it is."""
    with np.errstate(all="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _holds_scaled(values: NDArray[np.float32], own: Intensities) -> bool:
    """Whether float16 holds a channel that is normalised by numbers of its own, and tells its values apart."""
    ends = [abs(end - own.mean) / own.deviation for end in (own.low, own.high)]
    clipped = np.clip(values.ravel(), own.low, own.high)
    return max(ends) <= MOST_HALF and is_spread(clipped, mean=own.mean, deviation=own.deviation)
