"""RFA: the geometric median by the smoothed Weiszfeld algorithm (Pillutla et al. 2022, "Robust Aggregation for
Federated Learning", arXiv 1912.13445, algorithm 2). With a site's share a and the median z so far, which begins as the
mean:

    b = a / max(smoothing, distance of its update and z)
    z = (sum of b * update) / (sum of b)

z is a mean of the updates throughout, so its distance to each follows from the distances of all pairs: the updates are
read once, and an iteration costs no more than sites². So there are more iterations than the paper's few, which were
chosen because each costs it a round of messages.

Distances are over trained numbers. All that is not trained is averaged by the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coordinator.work.strategies.base import Shares, Steps, Strategy
from coordinator.work.strategies.block import Block, add_up
from coordinator.work.strategies.robust.distances import elements_of_rows, square_distances


@dataclass(frozen=True)
class GeometricMedian(Strategy):
    """Bears sites whose shares add up to less than one half."""

    iterations: int
    smoothing: float

    def block_elements(self, sites: int) -> int:
        return elements_of_rows(sites)

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        apart, given = square_distances(updates, len(shares)), np.array(shares)
        weights = given
        for _ in range(self.iterations):
            # |x - z|² = sum of w |x - x'|² - half the sum of w w' |x' - x''|²
            mixed = add_up(apart * weights)
            squares = mixed - 0.5 * add_up(mixed * weights)
            counted = given / np.maximum(self.smoothing, np.sqrt(np.maximum(squares, 0.0)))
            weights = counted / add_up(counted.copy())
        return tuple(float(weight) for weight in weights)
