"""How far apart updates are: one pass over all of them, O(sites² × numbers), blocks of every site in memory.

The sums are made in the order of tensors, blocks and `block.add_up`: the same bits on every machine. No BLAS.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from coordinator.work.strategies.base import BLOCK
from coordinator.work.strategies.block import Block, Values, add_up

LEAST_ELEMENTS = 1024


def elements_of_rows(sites: int) -> int:
    """Elements of a block of which every site's row is held: together about one ordinary block."""
    return max(LEAST_ELEMENTS, BLOCK // max(sites, 1))


def square_distances(updates: Iterable[Block], sites: int) -> Values:
    """Squares of the Euclidean distances of all pairs of updates, over trained numbers: (sites, sites)."""
    found = np.zeros((sites, sites))
    for block in updates:
        if not block.target.trained:
            continue
        rows, apart = block.rows(), np.empty((sites, block.size))
        for one in range(sites - 1):
            others = np.subtract(rows[one + 1 :], rows[one], out=apart[one + 1 :])
            found[one, one + 1 :] += add_up(np.multiply(others, others, out=others))
    return found + found.T


def measure_changes(updates: Iterable[Block], sites: int) -> Values:
    """Euclidean length of each site's change, over trained numbers: (sites,)."""
    found = np.zeros(sites)
    for block in updates:
        if block.target.trained:
            rows = block.changes()
            found += add_up(np.multiply(rows, rows, out=rows))
    return np.sqrt(found)
