"""FedProx (Li et al. 2020, arXiv 1812.06127, equation 2): mu / 2 * |w - received|² is added to the loss, which adds
mu * (w - received) to the gradient of each trained tensor."""

from __future__ import annotations

import torch

from site_agent.training.strategies.base import AnchoredRule


class ProximalRule(AnchoredRule):
    """`mu` as in the paper."""

    def __init__(self, mu: float) -> None:
        self._mu = mu

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for name, one in self.trained.items():
            if one.grad is not None:
                one.grad.add_(one - self.anchors[name], alpha=self._mu)
