"""Coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498, definition 2): for each number the mean of the
sites' numbers without the `attackers` largest and the `attackers` smallest. Shares do not count.

The paper trims a share of all sites; here it is their number, as in Krum. Where fewer updates came than the experiment
file lets a round close with (sites were excluded), as many are trimmed as leave one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values
from coordinator.work.strategies.robust.distances import elements_of_rows
from coordinator.work.strategies.robust.median import onto_model, sorted_rows


@dataclass(frozen=True)
class TrimmedMean(Strategy):
    """Bears `attackers` sites."""

    attackers: int

    def block_elements(self, sites: int) -> int:
        return elements_of_rows(sites)

    def combine(self, block: Block) -> Values:
        rows = sorted_rows(block)
        trimmed = min(self.attackers, (len(rows) - 1) // 2)
        total: Values = rows[trimmed]
        for row in rows[trimmed + 1 : len(rows) - trimmed]:
            np.add(total, row, out=total)
        return onto_model(block, np.divide(total, len(rows) - 2 * trimmed, out=total))
