"""FedAdagrad (Reddi et al. 2021, arXiv 2003.00295, algorithm 2 with FEDADAGRAD): FedAdam but for

v = v + d * d

"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordinator.work.strategies.block import Values
from coordinator.work.strategies.fedadam import AdaptiveStrategy


@dataclass(frozen=True)
class FedAdagrad(AdaptiveStrategy):
    """The coordinator's optimiser is Adagrad."""

    lr: float
    beta1: float
    tau: float

    def grow_second(self, v: Values, squares: Values) -> None:
        np.add(v, squares, out=v)
