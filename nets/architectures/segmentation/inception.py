"""Inception modules at full resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NetSpec

if TYPE_CHECKING:
    import torch


class InceptionSegSpec(NetSpec):
    """A net of Inception modules for segmentation: Roy et al. 2018 (arXiv 1807.10839) with three of them, and so
    Remedios et al. 2019 (arXiv 1903.04207); the module is that of Szegedy et al. 2015 (arXiv 1409.4842).

    The grid stays as it is throughout, so that any patch will do. The widths of the branches are a quarter, a half, an
    eighth and an eighth of a module's feature maps, as in GoogLeNet's first module. With batch normalisation the
    running statistics are averaged like weights; instance normalisation keeps none.

    Attributes:
        channels: feature maps of each module: multiples of 8.
    """

    name: Literal["InceptionSeg"] = "InceptionSeg"
    channels: tuple[int, ...] = Field((64, 64, 64), min_length=1, max_length=16)
    norm: Literal["batch", "instance", "none"] = "batch"
    tried: ClassVar = (
        {"channels": [8, 16]},
        {"channels": [8], "norm": "instance"},
        {"channels": [8], "norm": "none"},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if any(width < 8 or width % 8 for width in self.channels):
            raise ValueError("channels must be multiples of 8")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.layers import draw_weights, make_inception, make_logits

        parts: list[nn.Module] = []
        before = inputs
        for width in self.channels:
            eighth = width // 8
            widths = (2 * eighth, 3 * eighth, 4 * eighth, max(eighth // 2, 1), eighth, eighth)
            parts.append(make_inception(dims, before, widths, self.norm))
            before = width
        return draw_weights(nn.Sequential(*parts, make_logits(dims, before, outputs)))
