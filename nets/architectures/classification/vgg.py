"""VGG16."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nets.architectures.base import CLASSIFICATION, NetSpec

if TYPE_CHECKING:
    import torch

STAGES = (2, 2, 3, 3, 3)
"""Convolutions before each halving: the paper's configuration D."""


class VGG16Spec(NetSpec):
    """VGG16: Simonyan and Zisserman 2015 (arXiv 1409.1556), configuration D; 138.4 million parameters in 2D.

    With batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) its running statistics are averaged like
    weights. Images of any size are brought to the grid of the fully connected layers by means, as in torchvision.

    Attributes:
        width: feature maps of the first stage; each stage has twice as many as the one before, up to eight times.
        hidden: width of the two hidden fully connected layers.
        grid: edge of the grid that they see; 7 is that of an image of 224 pixels.
        dropout: chance that one of their values is dropped.
    """

    name: Literal["VGG16"] = "VGG16"
    tasks: ClassVar = CLASSIFICATION
    deterministic_on_cuda: ClassVar = frozenset()  # means over windows add atomically
    norm: Literal["none", "batch"] = "none"
    width: int = Field(64, ge=1, le=512)
    hidden: int = Field(4096, ge=1, le=8192)
    grid: int = Field(7, ge=1, le=16)
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    tried: ClassVar = (
        {"width": 4, "hidden": 16, "grid": 2},
        {"width": 4, "hidden": 8, "grid": 1, "norm": "batch", "dropout": 0.0},
    )

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.layers import draw_weights, make_convolution, make_maximum, make_mean

        parts: list[nn.Module] = []
        channels = inputs
        for stage, convolutions in enumerate(STAGES):
            width = self.width * min(2**stage, 8)
            for _ in range(convolutions):
                parts.append(make_convolution(dims, channels, width, 3, self.norm))
                channels = width
            parts.append(make_maximum(dims))
        parts.append(make_mean(dims, self.grid))
        channels *= self.grid**dims
        for _ in range(2):
            parts.append(nn.Sequential(nn.Linear(channels, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)))
            channels = self.hidden
        return draw_weights(nn.Sequential(*parts, nn.Linear(channels, outputs)))

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Each stage ends with a halving."""
        return (2 ** len(STAGES),) * dims
