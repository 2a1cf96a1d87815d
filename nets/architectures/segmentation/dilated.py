"""A plain convolutional net for voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NetSpec

if TYPE_CHECKING:
    import torch


class DilatedCNNSpec(NetSpec):
    """A plain convolutional net for segmentation: convolutions at full resolution whose dilation grows, Yu and Koltun
    2016 (arXiv 1511.07122), table 1.

    What studies with "a CNN" for segmentation can be run with. The grid stays as it is, so that any patch will do. With
    batch normalisation the running statistics are averaged like weights; instance normalisation keeps none.

    Attributes:
        channels: feature maps of each convolution.
        dilations: of each convolution.
    """

    name: Literal["DilatedCNN"] = "DilatedCNN"
    channels: int = Field(32, ge=1, le=512)
    dilations: tuple[int, ...] = Field((1, 1, 2, 4, 8, 16, 1), min_length=1, max_length=16)
    norm: Literal["instance", "batch", "none"] = "instance"
    tried: ClassVar = (
        {"channels": 4},
        {"channels": 4, "dilations": [1, 3], "norm": "batch"},
        {"channels": 4, "dilations": [2], "norm": "none"},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if min(self.dilations) < 1 or max(self.dilations) > 64:
            raise ValueError("dilations are 1 to 64")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.layers import draw_weights, make_convolution, make_logits

        parts: list[nn.Module] = []
        before = inputs
        for dilation in self.dilations:
            parts.append(make_convolution(dims, before, self.channels, 3, self.norm, dilation=dilation))
            before = self.channels
        return draw_weights(nn.Sequential(*parts, make_logits(dims, before, outputs)))
