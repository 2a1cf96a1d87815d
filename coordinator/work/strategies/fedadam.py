"""FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", arXiv 2003.00295, algorithm 2 with FEDADAM).

For each trained number, in float64, in this order:

    d = sum of share * (trained - received)          the sites' mean change, sites in the order of their names
    m = beta1 * m + (1 - beta1) * d                  m is 0 before the first round
    v = beta2 * v + (1 - beta2) * (d * d)            v is tau * tau before the first round
    x = x + (lr * m) / (sqrt(v) + tau)               x is the coordinator's exact model

There is no bias correction, as there is none in the paper. Shares are the experiment's (`weight_by`, `weight_cap`); the
paper's are equal. `received` is the model as it travelled, so that under a codec that rounds a site that trains nothing
changes nothing; where sites send differences, d is their mean.

m and v are rounded once, to float32, where they are kept; x is made from the unrounded ones, and rounded once. Every
operation has one right result in IEEE 754, so the bits do not depend on processor, threads or restarts. float32 is
what optimisers keep, and half of what float64 would take on the disk in every round that is kept for replay.

Counters, booleans and batch normalisation's statistics are no weights: they are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values


class AdaptiveStrategy(Strategy):
    """The paper's algorithm 2; a subclass says how the second moment grows. Parameters as in the paper, `lr` is its
    eta."""

    lr: float
    beta1: float
    tau: float
    parts: ClassVar[tuple[str, ...]] = ("m", "v")
    most_change: ClassVar[float] = math.sqrt(np.finfo(np.float32).max)
    """Its square is kept as float32."""

    def begin(self, part: str) -> float:
        return self.tau * self.tau if part == "v" else 0.0

    def combine(self, block: Block) -> Values:
        if not block.target.trained:
            return block.mean()
        d, m, v = block.change(), block.spare("m"), block.spare("v")
        np.multiply(self._before(block, "m", m), self.beta1, out=m)
        self._before(block, "v", v)
        np.add(m, np.multiply(d, 1.0 - self.beta1, out=block.spare("term")), out=m)
        self.grow_second(v, np.multiply(d, d, out=d))
        for part, values in (("m", m), ("v", v)):
            np.copyto(block.target.after[part][block.start : block.stop], values, casting="same_kind")
        np.add(np.sqrt(v, out=v), self.tau, out=v)
        np.divide(np.multiply(m, self.lr, out=m), v, out=m)
        np.add(m, block.model(), out=m)
        return m

    def grow_second(self, v: Values, squares: Values) -> None:
        """Bring the second moment up to date, in place, with d * d of this round, which may be written over."""
        raise NotImplementedError

    def _before(self, block: Block, part: str, out: Values) -> Values:
        """The part as it was, in float64."""
        kept = block.target.before.get(part)
        np.copyto(out, self.begin(part) if kept is None else kept[block.start : block.stop])
        return out


@dataclass(frozen=True)
class FedAdam(AdaptiveStrategy):
    """The coordinator's optimiser is Adam."""

    lr: float
    beta1: float
    beta2: float
    tau: float

    def grow_second(self, v: Values, squares: Values) -> None:
        np.multiply(v, self.beta2, out=v)
        np.add(v, np.multiply(squares, 1.0 - self.beta2, out=squares), out=v)
