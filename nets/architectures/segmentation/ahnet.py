"""Anisotropic hybrid net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch


class AHNetSpec(NetSpec):
    """AH-Net: Liu et al. 2018 (arXiv 1711.08580); `monai.networks.nets.AHNet`.

    The encoder's convolutions are 3 x 3 x 1, so that thick slices lie along the third axis. In 2D MONAI leaves out the
    first number, and the second axis is the thick one. The running statistics of its batch norms are averaged like
    weights.

    Attributes:
        layers: residual blocks of the encoder's four stages; (3, 4, 6, 3) is ResNet-50's.
        pyramid: poolings of 8, 16, 32 and 64 at half resolution at the end, as many as this.
    """

    name: Literal["AHNet"] = "AHNet"
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    pyramid: int = Field(4, ge=0, le=4)
    batch_norm: ClassVar = True
    tried: ClassVar = ({"layers": [1, 1, 1, 1], "pyramid": 1},)

    @field_validator("layers")
    @classmethod
    def _check_positive(cls, value: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        if not (min(value) >= 1 and max(value) <= 64):
            raise ValueError("layers are 1 to 64")
        return value

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import AHNet

        net: torch.nn.Module = AHNet(
            layers=self.layers,
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            psp_block_num=self.pyramid,
        )
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Five halvings; along all axes but the last the largest pooling."""
        return (*(max(32, 2 ** (self.pyramid + 3)),) * (dims - 1), 32)

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Five halvings."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST
