"""Norm bound (Sun et al. 2019, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963, section 4): a change
that is longer than `bound` is shortened to it, then the mean is taken:

    x = x + sum of share * (trained - received) / max(1, length / bound)

The length is Euclidean, over trained numbers. The paper adds noise; here none is added. All that is not trained is
averaged as it comes: it is not bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from coordinator.work.strategies.base import Shares, Steps, Strategy
from coordinator.work.strategies.block import Block, Values
from coordinator.work.strategies.robust.distances import elements_of_rows, measure_changes


@dataclass(frozen=True)
class NormBound(Strategy):
    """No site moves the model farther than its share of `bound`."""

    bound: float
    shares_trained: ClassVar[bool] = True

    def block_elements(self, sites: int) -> int:
        return elements_of_rows(sites)

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        lengths = measure_changes(updates, len(shares))
        return tuple(
            share / max(1.0, float(length) / self.bound) for share, length in zip(shares, lengths, strict=True)
        )

    def combine(self, block: Block) -> Values:
        return block.moved() if block.target.trained else block.mean()
