"""SCAFFOLD (Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", arXiv
1910.06378, algorithm 1). Beside each trained weight x its control variate c travels, as a tensor of its own:

    x = x + lr * sum of share * (trained - received)
    c = c + (sites whose update is here / sites of the round) * sum of share * (sent control - received control)

A site sends c + (its new control variate - its old one), so that the difference is what the paper's site sends. The
paper's sites count alike; here each counts by its share in both lines, which belong together: what is minimised is the
sum of share * loss. All that is not trained is averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import Block, Values
from messages.tensors.travelling import is_beside


@dataclass(frozen=True)
class Scaffold(Strategy):
    """`lr` is the paper's global step size."""

    lr: float

    def combine(self, block: Block) -> Values:
        if is_beside(block.target.name):
            return block.moved(len(block.target.sources) / block.target.parties)
        return block.moved(self.lr) if block.target.trained else block.mean()
