"""Coordinate-wise median (Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
arXiv 1803.01498, definition 1): each number is the median of the sites' numbers; of an even count the mean of the two
in the middle. Shares do not count. Measured statistics are treated alike.
"""

from __future__ import annotations

import numpy as np

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values
from coordinator.work.strategies.robust.distances import elements_of_rows


class Median(Strategy):
    """Bears fewer than half of the sites."""

    def block_elements(self, sites: int) -> int:
        return elements_of_rows(sites)

    def combine(self, block: Block) -> Values:
        rows = sorted_rows(block)
        below, above = (len(rows) - 1) // 2, len(rows) // 2
        return onto_model(block, (rows[below] + rows[above]) * 0.5)


def sorted_rows(block: Block) -> Values:
    """What the sites sent, each number's values in ascending order."""
    rows = block.rows()
    np.add(rows, 0.0, out=rows)  # -0 becomes 0: sorting would leave the two in an order of its own
    rows.sort(axis=0)
    return rows


def onto_model(block: Block, values: Values) -> Values:
    """What was made of weights as it is; what was made of differences is added to the model."""
    return np.add(values, block.model(), out=values) if block.target.differences else values
