"""GoogLeNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nets.architectures.base import CLASSIFICATION, NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

STAGES = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""The paper's table 1, rows 3a to 5b: widths as `nets.layers.make_inception` takes them; a halving between stages."""


class GoogLeNetSpec(NetSpec):
    """GoogLeNet: Szegedy et al. 2015 (arXiv 1409.4842); 6.6 million parameters in 2D with torchvision's 3 x 3.

    Without the two classifiers beside the main one. Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167)
    stands where the paper has local response normalisation; its running statistics are averaged like weights.

    Attributes:
        width: all feature maps are multiplied by this and rounded down; 1 is the paper's.
        kernel: of the branch of 5: 5 in the paper, 3 in torchvision.
        dropout: chance that one of the values before the last layer is dropped.
    """

    name: Literal["GoogLeNet"] = "GoogLeNet"
    tasks: ClassVar = CLASSIFICATION
    norm: Literal["batch", "none"] = "batch"
    width: float = Field(1.0, ge=0.0625, le=4.0)
    kernel: Literal[3, 5] = 5
    dropout: float = Field(0.4, ge=0.0, lt=1.0)
    tried: ClassVar = ({"width": 0.0625}, {"width": 0.0625, "norm": "none", "kernel": 3, "dropout": 0.0})

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.layers import draw_weights, make_convolution, make_inception, make_maximum, make_mean

        def scale(width: int) -> int:
            return int(width * self.width)

        parts: list[nn.Module] = [
            make_convolution(dims, inputs, scale(64), 7, self.norm, stride=2),
            make_maximum(dims, 3, 2, ceil=True),
            make_convolution(dims, scale(64), scale(64), 1, self.norm),
            make_convolution(dims, scale(64), scale(192), 3, self.norm),
        ]
        channels = scale(192)
        for stage in STAGES:
            parts.append(make_maximum(dims, 3, 2, ceil=True))
            for row in stage:
                one, reduced_3, three, reduced_5, five, pooled = map(scale, row)
                widths = (one, reduced_3, three, reduced_5, five, pooled)
                parts.append(make_inception(dims, channels, widths, self.norm, kernel=self.kernel))
                channels = one + three + five + pooled
        parts += [make_mean(dims), nn.Dropout(self.dropout), nn.Linear(channels, outputs)]
        return draw_weights(nn.Sequential(*parts))

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Five halvings, each rounded up."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST if self.norm == "batch" else 1
