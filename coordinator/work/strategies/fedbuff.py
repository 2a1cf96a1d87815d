"""FedBuff (Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639): what an
asynchronous plan makes of a buffer. For each trained number, in float64, sites in the order of their names:

    x = x + sum of share * s * (trained - received)

x is the coordinator's newest exact model. `received` is the model that the site began with, which may be older; s is
the discount for that (`plans.buffering.discount_update`). The shares add up to 1, as the paper's 1 / K do, and are not
scaled up for what the discounts take away: old updates make a small step. The paper's global learning rate is 1.

What is measured or counted (batch normalisation) is mixed: x (1 - sum of share * s) + sum of share * s * told. So a
variance stays one, which x plus a difference of old ones need not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coordinator.work.strategies.base import Shares, Steps, Strategy
from coordinator.work.strategies.block import Block, Values


@dataclass(frozen=True)
class FedBuff(Strategy):
    """`discounts`: of each update, in the order of the sites' names."""

    discounts: tuple[float, ...]

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        return tuple(share * discount for share, discount in zip(shares, self.discounts, strict=True))

    def combine(self, block: Block) -> Values:
        return block.moved() if block.target.trained else self._mix(block)

    def _mix(self, block: Block) -> Values:
        whole, term = block.spare("mixed"), block.spare("term")
        rest = 1.0
        whole.fill(0.0)
        for place, (share, values) in enumerate(block.sent()):
            np.copyto(term, values)
            if block.target.differences:
                np.add(term, block.received_by(place), out=term)
            np.add(whole, np.multiply(term, share, out=term), out=whole)
            rest -= share
        np.multiply(block.model(), max(rest, 0.0), out=term)
        return np.add(whole, term, out=whole)
