"""Histograms over bins that are stated here, once for all: so the counts of several sites add up. Pure.

Two scales. *Sizes* (millimetres, voxels, volumes, shares) are above 0: a bin is 0.5 % wide, so whole numbers up to 100
keep a bin each. *Values* (intensities) have either sign: a bin is 1 % wide, and no narrower than 1e-4 about 0.

What a bin stands for is rounded to six digits: the same on every machine, whatever its logarithm's last bit is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import asinh, exp, log, sinh
from typing import Annotated, Self

from pydantic import Field, model_validator

from messages.ground.strictness import StrictModel, at_most

SIZE_WIDTH, VALUE_WIDTH = 0.005, 0.01
"""Of a bin, relative."""
NEAR_ZERO = 0.01
"""Below this, bins of values are evenly wide."""
MOST_BIN = 16_384
"""The largest number of a bin, of either sign: sizes up to 1e35, values up to 1e69."""
MOST_BINS = 8192
"""Of one histogram."""

Bin = Annotated[int, Field(ge=-MOST_BIN, le=MOST_BIN)]
BinCount = Annotated[int, Field(ge=1, le=2**53)]


def bin_of_size(size: float) -> int:
    """The bin of a size above 0."""
    return max(-MOST_BIN, min(MOST_BIN, round(log(size) / SIZE_WIDTH)))


def size_of_bin(number: int) -> float:
    """The size in a bin's middle."""
    return float(f"{exp(number * SIZE_WIDTH):.6g}")


def bin_of_value(value: float) -> int:
    """The bin of a value."""
    return max(-MOST_BIN, min(MOST_BIN, round(asinh(value / NEAR_ZERO) / VALUE_WIDTH)))


def value_of_bin(number: int) -> float:
    """The value in a bin's middle."""
    return float(f"{NEAR_ZERO * sinh(number * VALUE_WIDTH):.6g}")


class Histogram(StrictModel):
    """Counts by bin; bins without any are left out. Empty: nothing is told."""

    bins: Annotated[tuple[Bin, ...], at_most(MOST_BINS)] = ()
    """Ascending."""
    counts: Annotated[tuple[BinCount, ...], at_most(MOST_BINS)] = ()

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if len(self.bins) != len(self.counts):
            raise ValueError("each bin has one count")
        if any(one >= other for one, other in zip(self.bins, self.bins[1:], strict=False)):
            raise ValueError("bins ascend")
        return self

    @classmethod
    def of_counts(cls, counts: dict[int, int]) -> Histogram:
        """Out of bin → count; zeros are left out."""
        kept = sorted((number, count) for number, count in counts.items() if count)
        return cls(bins=tuple(number for number, _ in kept), counts=tuple(count for _, count in kept))

    @property
    def total(self) -> int:
        """What is counted, all bins together."""
        return sum(self.counts)

    def thin(self, kept: int, of: int) -> Histogram:
        """As if only `kept` of `of` cases had been counted, spread evenly over the order of the bins: percentiles stay
        where they are, to one count."""
        counts, before, below = dict[int, int](), 0, 0
        for number, count in zip(self.bins, self.counts, strict=True):
            before += count
            counts[number] = before * kept // of - below
            below += counts[number]
        return Histogram.of_counts(counts)

    def find_percentile(self, percent: float, read: Callable[[int], float]) -> float:
        """A percentile, between neighbours by linear interpolation, as numpy's default (Hyndman and Fan 1996, type 7).

        Args:
            read: what a bin stands for; grows with its number.

        Raises:
            ValueError: nothing is counted.
        """
        if not self.total:
            raise ValueError("a percentile of nothing")
        place = percent / 100 * (self.total - 1)
        below = int(place)
        low, high = read(self._bin_at(below)), read(self._bin_at(min(below + 1, self.total - 1)))
        return low + (high - low) * (place - below)

    def _bin_at(self, place: int) -> int:
        """The bin of the item at a place, from 0, in ascending order."""
        for number, count in zip(self.bins, self.counts, strict=True):
            if place < count:
                return number
            place -= count
        raise IndexError(place)

    def find_moments(self, read: Callable[[int], float]) -> tuple[float, float]:
        """Mean and standard deviation (of the population), as far as bins tell; (0, 0) of nothing."""
        total = self.total
        if not total:
            return 0.0, 0.0
        pairs = [(read(number), count) for number, count in zip(self.bins, self.counts, strict=True)]
        mean = sum(value * count for value, count in pairs) / total
        return mean, (sum((value - mean) ** 2 * count for value, count in pairs) / total) ** 0.5


def pool_histograms(parts: Iterable[Histogram]) -> Histogram:
    """All together: whole numbers, in any order."""
    counts: Counter[int] = Counter()
    for part in parts:
        counts.update(dict(zip(part.bins, part.counts, strict=True)))
    return Histogram.of_counts(counts)
