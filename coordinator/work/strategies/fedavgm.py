"""FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", arXiv 1909.06335): momentum at the coordinator. For each trained number, in float64, in this order:

    d = sum of share * (trained - received)     the sites' mean change, sites in the order of their names
    v = momentum * v + d                        v is 0 before the first round, and kept as float32
    x = x + lr * v                              x is the coordinator's exact model

The paper's learning rate at the coordinator is 1. All that is not trained is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values


@dataclass(frozen=True)
class FedAvgM(Strategy):
    """The coordinator's optimiser is SGD with momentum."""

    lr: float
    momentum: float
    parts: ClassVar[tuple[str, ...]] = ("v",)

    def combine(self, block: Block) -> Values:
        if not block.target.trained:
            return block.mean()
        v = block.change()
        before = block.target.before.get("v")
        if before is not None:
            kept = block.spare("v")
            np.copyto(kept, before[block.start : block.stop])
            np.add(np.multiply(kept, self.momentum, out=kept), v, out=v)
        np.copyto(block.target.after["v"][block.start : block.stop], v, casting="same_kind")
        np.multiply(v, self.lr, out=v)
        np.add(v, block.model(), out=v)
        return v
