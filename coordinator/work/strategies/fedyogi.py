"""FedYogi (Reddi et al. 2021, arXiv 2003.00295, algorithm 2 with FEDYOGI): FedAdam but for

    v = v - ((1 - beta2) * (d * d)) * sign(v - d * d)

So the second moment changes by no more than the square of this round's change, however large it was before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.work.strategies.block import Values
from coordinator.work.strategies.fedadam import AdaptiveStrategy


@dataclass(frozen=True)
class FedYogi(AdaptiveStrategy):
    """The coordinator's optimiser is Yogi."""

    lr: float
    beta1: float
    beta2: float
    tau: float

    def grow_second(self, v: Values, squares: Values) -> None:
        sign = np.sign(v - squares)
        np.multiply(squares, 1.0 - self.beta2, out=squares)
        np.subtract(v, np.multiply(squares, sign, out=squares), out=v)
