"""FedDC (Gao et al. 2022, arXiv 2203.11751, algorithm 1). A site's drift h is 0 at first; g_i is what its last round
changed, and g the sites' mean of that, which came beside the model. A step's gradient gets

    alpha * (h + w - received) + (g_i - g) / (steps * learning rate)

After the round h = h + (trained - received), and trained + h is sent in place of the weights. The paper's learning rate
is that of SGD; under another optimiser it is that one's.
"""

from __future__ import annotations

import torch

from messages.sections import Training
from messages.tensors.travelling import CONTROL
from site_agent.training.strategies.base import AnchoredRule, Arrays, Leaves, Tensors

DRIFT = "drift:"


class DriftRule(AnchoredRule):
    """`alpha` as in the paper."""

    remembers = True

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        super().begin_round(net, beside, kept)
        self._received = beside
        self._drift = self.zeros_or(kept, DRIFT)
        own, common = self.zeros_or(kept, CONTROL), self.zeros_or(beside, CONTROL)
        self._apart = {name: own[name] - common[name] for name in self.trained}
        self._pace = 1.0

    def set_pace(self, settings: Training, rate: float, steps: int) -> None:
        self._pace = max(rate * steps, torch.finfo(torch.float32).tiny)

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for name, one in self.trained.items():
            if one.grad is not None:
                pulled = self._drift[name] + one - self.anchors[name]
                one.grad.add_(pulled, alpha=self._alpha).add_(self._apart[name], alpha=1 / self._pace)

    @torch.no_grad()
    def end_round(self, steps: int) -> Leaves:
        sent, kept = dict(self._received), {}
        for name, one in self.trained.items():
            change = one - self.anchors[name]
            drift = self._drift[name] + change
            sent[name] = (one + drift).numpy(force=True)
            sent[CONTROL + name] = change.numpy(force=True)
            kept[CONTROL + name], kept[DRIFT + name] = change, drift
        return Leaves(sent, kept)
