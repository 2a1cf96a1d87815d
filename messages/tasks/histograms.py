"""Predicted probabilities in bins, by whether a case is of the class: what AUC and calibration pool from.

A hundred bins on the arcsine scale: bin k holds probabilities from sin²(πk/200) to sin²(π(k+1)/200). They are 0.016
wide at 0.5 and narrow towards 0 and 1, where a trained net puts most cases (the scale makes a proportion's variance
even, Anscombe 1948). Bin 50 begins at 0.5. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from messages.ground.strictness import StrictModel, at_most

BINS = 100
HALF = BINS // 2
"""The first bin of probabilities from 0.5 on."""
CALIBRATION_GROUPS = 20
"""Groups of bins over which predicted and observed frequencies are compared."""
_EDGES = tuple(0.5 if k == HALF else math.sin(math.pi * k / (2 * BINS)) ** 2 for k in range(BINS + 1))
_MIDDLES = tuple((low + high) / 2 for low, high in pairwise(_EDGES))

BinCount = Annotated[int, Field(ge=0, le=2**53)]
BinCounts = Annotated[list[BinCount], Field(min_length=BINS, max_length=BINS, fail_fast=True), at_most(BINS)]


class ScoreHistogram(StrictModel):
    """One class against the rest: how many cases have a predicted probability in each bin.

    Attributes:
        positive: cases of the class. negative: all others.
    """

    positive: BinCounts
    negative: BinCounts

    @property
    def positives(self) -> int:
        """Cases of the class."""
        return sum(self.positive)

    @property
    def negatives(self) -> int:
        """All others."""
        return sum(self.negative)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(
            positive=[one + more for one, more in zip(self.positive, other.positive, strict=True)],
            negative=[one + more for one, more in zip(self.negative, other.negative, strict=True)],
        )

    def is_below(self, floor: int) -> bool:
        """Whether it would tell of a few cases only: of the class, or of the others."""
        return 0 < self.positives < floor or 0 < self.negatives < floor

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve: the share of pairs (one of the class, one other) in the right order, ties half
        (Hanley and McNeil 1982). None where one of the two kinds is missing."""
        pairs = self.positives * self.negatives
        if not pairs:
            return None
        below = right = 0.0
        for positive, negative in zip(self.positive, self.negative, strict=True):
            right += positive * (below + negative / 2)
            below += negative
        return right / pairs

    @property
    def auc_error(self) -> float | None:
        """How far `auc` is from that of the probabilities themselves, at most: pairs in one bin count half."""
        pairs = self.positives * self.negatives
        if not pairs:
            return None
        return sum(one * other for one, other in zip(self.positive, self.negative, strict=True)) / 2 / pairs

    @property
    def roc(self) -> tuple[tuple[float, float], ...]:
        """(1 - specificity, sensitivity) from the strictest threshold to none at all; () where a kind is missing."""
        if not self.positives * self.negatives:
            return ()
        points, right, wrong = [(0.0, 0.0)], 0, 0
        for positive, negative in zip(reversed(self.positive), reversed(self.negative), strict=True):
            right, wrong = right + positive, wrong + negative
            if positive or negative:
                points.append((wrong / self.negatives, right / self.positives))
        return tuple(points)

    @property
    def sensitivity(self) -> float | None:
        """Share of the class with a probability of at least 0.5."""
        return sum(self.positive[HALF:]) / self.positives if self.positives else None

    @property
    def specificity(self) -> float | None:
        """Share of the others with a probability below 0.5."""
        return sum(self.negative[:HALF]) / self.negatives if self.negatives else None

    @property
    def right(self) -> int:
        """Cases on the right side of 0.5."""
        return sum(self.positive[HALF:]) + sum(self.negative[:HALF])

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error (Naeini et al. 2015) of this class's probability, over `CALIBRATION_GROUPS` groups
        of bins. A case counts with its bin's middle, so it is exact to 0.008."""
        cases = self.positives + self.negatives
        if not cases:
            return None
        wide, gap = BINS // CALIBRATION_GROUPS, 0.0
        for first in range(0, BINS, wide):
            bins = range(first, first + wide)
            expected = sum(_MIDDLES[k] * (self.positive[k] + self.negative[k]) for k in bins)
            gap += abs(expected - sum(self.positive[first : first + wide]))
        return gap / cases


def find_bin(probability: float) -> int:
    """The bin of a probability from 0 to 1."""
    return min(BINS - 1, bisect_right(_EDGES, probability) - 1)


def bin_scores(probabilities: Iterable[float], is_positive: Sequence[bool]) -> ScoreHistogram:
    """The histogram of one class.

    Args:
        probabilities: one a case. is_positive: whether that case is of the class.
    """
    counts = ([0] * BINS, [0] * BINS)
    for probability, positive in zip(probabilities, is_positive, strict=True):
        counts[not positive][find_bin(probability)] += 1
    return ScoreHistogram(positive=counts[0], negative=counts[1])
