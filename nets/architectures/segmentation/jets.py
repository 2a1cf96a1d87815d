"""A net whose convolutions are fixed: Gaussian derivatives, mixed by a few learnt weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NetSpec

if TYPE_CHECKING:
    import torch


class GaussianJetsSpec(NetSpec):
    """Derivatives of the image at several scales, fixed and without weights, go into a small perceptron for each voxel:
    structured receptive fields, Jacobsen et al. 2016 (arXiv 1605.02971), with one layer of them.

    For few patients under `[privacy.dp]`: noise is added to each weight, and this net has hundreds. Each derivative is
    brought to mean 0 and variance 1 over the patch. The grid stays as it is, so that any patch will do.

    Attributes:
        scales: standard deviations of the Gaussians, voxels.
        order: derivatives up to this one, along all axes together.
        hidden: width of the perceptron's layer.
        positions: whether a voxel's place in the patch goes in as well: for patches that hold whole images of one kind.
    """

    name: Literal["GaussianJets"] = "GaussianJets"
    scales: tuple[float, ...] = Field((0.7, 1.4, 2.8), min_length=1, max_length=8)
    order: int = Field(2, ge=0, le=2)
    hidden: int = Field(8, ge=1, le=512)
    positions: bool = False
    tried: ClassVar = ({"scales": [0.7, 1.5], "hidden": 4}, {"scales": [1], "order": 1, "positions": True})

    @model_validator(mode="after")
    def _check_scales(self) -> Self:
        if min(self.scales) < 0.3 or max(self.scales) > 16:
            raise ValueError("scales are 0.3 to 16 voxels")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from torch import nn

        from nets.jets import Jets
        from nets.layers import CONVOLUTIONS, make_logits

        jets = Jets(dims, inputs, self.scales, self.order, positions=self.positions)
        mix = CONVOLUTIONS[dims](jets.outputs, self.hidden, 1)
        return nn.Sequential(
            jets, mix, nn.GroupNorm(1, self.hidden), nn.LeakyReLU(0.1), make_logits(dims, self.hidden, outputs)
        )
