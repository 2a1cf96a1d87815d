"""FedDyn (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", arXiv 2111.04263, algorithm 1).

For each trained number, in float64, in this order; h is the paper's h divided by alpha, 0 before the first round:

    d = sum of share * (trained - received)
    h = h - (sites whose update is here / sites of the round) * d
    x = (x + d) - h

The paper's sites count alike; here each counts by its share. h is kept as float32, x is made from the unrounded one.
The regulariser is the sites' (`site_agent.training.strategies.feddyn`). All that is not trained is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values


@dataclass(frozen=True)
class FedDyn(Strategy):
    """`alpha` counts at the sites: here it cancels out."""

    alpha: float
    parts: ClassVar[tuple[str, ...]] = ("h",)

    def combine(self, block: Block) -> Values:
        target = block.target
        if not target.trained:
            return block.mean()
        d, h = block.change(), block.spare("h")
        before = target.before.get("h")
        np.copyto(h, 0.0 if before is None else before[block.start : block.stop])
        part = np.multiply(d, len(target.sources) / target.parties, out=block.spare("part"))
        np.subtract(h, part, out=h)
        np.copyto(target.after["h"][block.start : block.stop], h, casting="same_kind")
        np.add(d, block.model(), out=d)
        np.subtract(d, h, out=d)
        return d
