"""A plain convolutional net for cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from nets.architectures.base import CLASSIFICATION, NetSpec

if TYPE_CHECKING:
    import torch


class CNNSpec(NetSpec):
    """A plain convolutional net: convolution, norm, ReLU and a halving at each level, then a mean over the grid (Lin et
    al. 2014, arXiv 1312.4400) and one fully connected layer.

    What studies with "a CNN" mean, as Yan et al. 2020 (variation-aware federated learning). Small enough for sites
    without a GPU: 0.4 million parameters in 2D. With batch normalisation its running statistics are averaged like
    weights; instance normalisation keeps none.

    Attributes:
        channels: feature maps at each level, from the finest.
        convolutions: at each level.
        dropout: chance that one of the values before the last layer is dropped.
    """

    name: Literal["CNN"] = "CNN"
    tasks: ClassVar = CLASSIFICATION
    channels: tuple[int, ...] = Field((32, 64, 128, 256), min_length=1, max_length=8)
    convolutions: int = Field(1, ge=1, le=4)
    kernel_size: Literal[3, 5, 7] = 3
    norm: Literal["instance", "batch", "none"] = "instance"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = (
        {},
        {"channels": [4, 8], "convolutions": 2, "norm": "batch", "dropout": 0.3},
        {"channels": [4], "kernel_size": 5, "norm": "none"},
    )

    @field_validator("channels")
    @classmethod
    def _check_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("channels must be 1 or more")
        return value

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.layers import draw_weights, make_convolution, make_maximum, make_mean

        parts: list[nn.Module] = []
        before = inputs
        for width in self.channels:
            for _ in range(self.convolutions):
                parts.append(make_convolution(dims, before, width, self.kernel_size, self.norm))
                before = width
            parts.append(make_maximum(dims))
        head = (make_mean(dims), nn.Dropout(self.dropout), nn.Linear(before, outputs))
        return draw_weights(nn.Sequential(*parts, *head))

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Each level ends with a halving; the last one comes after the last norm."""
        return (2 ** len(self.channels),) * dims
