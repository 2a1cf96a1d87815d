"""Krum and multi-Krum (Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
arXiv 1703.02757, section 4). With n updates, of which f may be anything, an update's score is the sum of the squared
distances to its n - f - 2 nearest others. Krum takes the update with the lowest score; multi-Krum takes the mean of the
n - f lowest. Of equals the first by name counts as lower. Shares do not count.

Distances are over trained numbers. Where n is below 2 f + 3 (sites were excluded), the nearest one decides at least.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.work.strategies.base import Shares, Steps, Strategy
from coordinator.work.strategies.block import Block
from coordinator.work.strategies.robust.distances import elements_of_rows, square_distances


@dataclass(frozen=True)
class Krum(Strategy):
    """Bears `attackers` sites, of at least twice as many and three."""

    attackers: int

    def block_elements(self, sites: int) -> int:
        return elements_of_rows(sites)

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        sites = len(shares)
        apart = square_distances(updates, sites)
        nearest = max(1, sites - self.attackers - 2)
        scores = []
        for one in range(sites):
            others = sorted(float(apart[one, other]) for other in range(sites) if other != one)
            scores.append(sum(others[:nearest]))
        best = sorted(range(sites), key=lambda one: (scores[one], one))[: self.count_taken(sites)]
        return tuple(1.0 / len(best) if one in best else 0.0 for one in range(sites))

    def count_taken(self, sites: int) -> int:
        """How many of the updates with the lowest scores the model is made of."""
        return 1


@dataclass(frozen=True)
class MultiKrum(Krum):
    """As above, and more of what is good goes into the model."""

    def count_taken(self, sites: int) -> int:
        return max(1, sites - self.attackers)
