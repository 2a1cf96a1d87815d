"""Several nets that make one prediction together: an ensemble as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from messages.tasks.base import Reading

LEAST = 1e-7
"""Probabilities are held this far from 0 and 1: a logit is finite."""


class CombinedNet(torch.nn.Module):
    """Nets of the same input and outputs, as one that answers with logits.

    The probability that these logits stand for is the weighted mean of the nets' probabilities ("mean"), or the
    weighted share of the nets that vote for an output ("majority": from one half on, or the largest of exclusive ones).

    Args:
        weights: of each net; they add up to 1.
        reading: "sigmoid": each output is a yes or no of its own; "softmax": they exclude each other, along dimension
            1; "plain": they are numbers, and what comes out is their mean.

    Raises:
        ValueError: a majority of numbers, or no net.
    """

    def __init__(
        self,
        nets: Sequence[torch.nn.Module],
        weights: Sequence[float],
        rule: Literal["mean", "majority"],
        *,
        reading: Reading,
    ) -> None:
        super().__init__()
        if not nets or (rule == "majority" and reading == "plain"):
            raise ValueError(f"{rule} of {len(nets)} nets whose outputs are read {reading}")
        self.nets = torch.nn.ModuleList(nets)
        self.weights, self.rule, self.reading = tuple(weights), rule, reading

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, or numbers (B, outputs, …), of images (B, channels, …)."""
        told = [weight * self._read(net(images).float()) for net, weight in zip(self.nets, self.weights, strict=True)]
        total = torch.stack(told).sum(dim=0)
        if self.reading == "plain":
            return total
        held = total.clamp(LEAST, 1 - LEAST)
        return held.log() if self.reading == "softmax" else torch.logit(held)

    def _read(self, outputs: torch.Tensor) -> torch.Tensor:
        """One net's probabilities, votes or numbers."""
        if self.reading == "plain":
            return outputs
        if self.rule == "mean":
            return outputs.softmax(dim=1) if self.reading == "softmax" else outputs.sigmoid()
        if self.reading == "sigmoid":
            return (outputs >= 0).float()
        return torch.zeros_like(outputs).scatter_(1, outputs.argmax(dim=1, keepdim=True), 1.0)
