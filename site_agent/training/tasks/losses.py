"""Losses over logits, as MONAI has them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nets.monai_parts import DiceCELoss, DiceLoss

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_for(name: str) -> Loss:
    """ "dice+bce" over overlapping regions (sigmoid) or "dice+ce" over exclusive classes (softmax).

    Dice is taken over the batch as a whole (`batch=True`): a patch without a region then does not count as a
    missed one. Targets are float (B, K, x, y, z), one-hot for softmax; background is left out of Dice.
    """
    if name == "dice+ce":
        combined: Loss = DiceCELoss(softmax=True, include_background=False, batch=True)
        return combined
    dice = DiceLoss(sigmoid=True, batch=True)
    bce = torch.nn.BCEWithLogitsLoss()

    def both(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = dice(logits, target) + bce(logits, target)
        return total

    return both
