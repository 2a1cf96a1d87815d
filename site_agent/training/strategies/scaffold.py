"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1). With c the control variate that was received and
c_i this site's own, each step's gradient g becomes g - c_i + c. After the round c_i becomes the mean of the g.

That is the paper's option II: c_i - c + (received - trained) / (steps * learning rate) is this very mean where the
steps are those of SGD without momentum, decay and clipping. Written so, it is also a gradient under any other
optimiser. What is no number (a step that mixed precision skips) counts as 0.
"""

from __future__ import annotations

import torch

from messages.tensors.travelling import CONTROL
from site_agent.training.strategies.base import Arrays, Leaves, ParametersRule, Tensors


class ControlledRule(ParametersRule):
    """A site that has no control variate yet begins with zeros, as in the paper."""

    remembers = True

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        super().begin_round(net, beside, kept)
        self._received = beside
        self._common, self._own = self.zeros_or(beside, CONTROL), self.zeros_or(kept, CONTROL)
        self._sums = {name: torch.zeros_like(one) for name, one in self.trained.items()}

    def state(self) -> Tensors:
        return self._sums

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        for name, one in self.trained.items():
            if one.grad is not None:
                self._sums[name].add_(torch.nan_to_num(one.grad, nan=0.0, posinf=0.0, neginf=0.0))
                one.grad.add_(self._common[name] - self._own[name])

    @torch.no_grad()
    def end_round(self, steps: int) -> Leaves:
        sent, kept = dict(self._received), {}
        for name, total in self._sums.items():
            mean = total / max(steps, 1)
            sent[CONTROL + name] = (self._common[name] + (mean - self._own[name])).numpy(force=True)
            kept[CONTROL + name] = mean
        return Leaves(sent, kept)
