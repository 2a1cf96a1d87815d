"""FedDyn (Acar et al. 2021, arXiv 2111.04263, algorithm 1): a site's loss gets - <h, w> + alpha / 2 * |w - received|²,
so its gradient gets - h + alpha * (w - received). After the round h = h - alpha * (trained - received): the gradient of
the site's own loss. h is 0 before the site's first round."""

from __future__ import annotations

import torch

from site_agent.training.strategies.base import AnchoredRule, Arrays, Leaves, Tensors

PULL = "pull:"


class DynamicRule(AnchoredRule):
    """`alpha` as in the paper; h is the paper's gradient of the local loss."""

    remembers = True

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        super().begin_round(net, beside, kept)
        self._pull = self.zeros_or(kept, PULL)

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for name, one in self.trained.items():
            if one.grad is not None:
                one.grad.sub_(self._pull[name]).add_(one - self.anchors[name], alpha=self._alpha)

    @torch.no_grad()
    def end_round(self, steps: int) -> Leaves:
        kept = {
            PULL + name: self._pull[name].sub(one - self.anchors[name], alpha=self._alpha)
            for name, one in self.trained.items()
        }
        return Leaves(kept=kept)
