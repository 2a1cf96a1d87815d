"""DenseNet-121."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nets.architectures.base import CLASSIFICATION, NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch


class DenseNet121Spec(NetSpec):
    """DenseNet-121: Huang et al. 2017 (arXiv 1608.06993); `monai.networks.nets.DenseNet121`; 8.0 million parameters in
    2D. The running statistics of its batch norms are averaged like weights.

    Attributes:
        init_features: feature maps of the first convolution.
        growth_rate: feature maps that each layer adds.
        dropout: chance that a feature map which a layer adds is dropped.
    """

    name: Literal["DenseNet121"] = "DenseNet121"
    batch_norm: ClassVar = True
    tasks: ClassVar = CLASSIFICATION
    deterministic_on_cuda: ClassVar = frozenset({2})  # means over windows add atomically in 3D
    init_features: int = Field(64, ge=2, le=512)
    growth_rate: int = Field(32, ge=1, le=128)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = ({"init_features": 8, "growth_rate": 4, "dropout": 0.1},)

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import DenseNet121

        net: torch.nn.Module = DenseNet121(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            init_features=self.init_features,
            growth_rate=self.growth_rate,
            dropout_prob=self.dropout,
        )
        return net

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Five halvings."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST
