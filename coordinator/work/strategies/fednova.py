"""FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
arXiv 2007.07481, equation 9 for local SGD). With t the steps that a site took, and p its share:

    x = x + (sum of p * t) * (sum of p * (trained - received) / t)

A site that takes more steps than others moves farther. Under federated averaging it pulls the model towards its own
optimum for that alone; here each site counts by its share. Where all take as many steps, it is federated averaging.

The steps are those that a site tells, within what its cases can yield (`core.checks.judge_steps`). The paper normalises
by the weights that the local optimiser gives to its gradients; for SGD without momentum they add up to the steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from coordinator.work.strategies.base import Shares, Steps, Strategy
from coordinator.work.strategies.block import Block, Values


class FedNova(Strategy):
    """Each site's change, normalised by its steps."""

    shares_trained: ClassVar[bool] = True

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        effective = 0.0
        for share, taken in zip(shares, steps, strict=True):
            effective += share * taken
        return tuple(share * effective / taken for share, taken in zip(shares, steps, strict=True))

    def combine(self, block: Block) -> Values:
        return block.moved() if block.target.trained else block.mean()
