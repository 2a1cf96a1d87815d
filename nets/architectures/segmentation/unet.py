"""Residual U-Net."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

GROUPS = 4
"""Groups of group normalisation."""


class UNetSpec(NetSpec):
    """Residual U-Net: Ronneberger et al. 2015 (arXiv 1505.04597), Çiçek et al. 2016 (arXiv 1606.06650), Kerfoot et al.
    2019 (doi 10.1007/978-3-030-12029-0_40); `monai.networks.nets.UNet`.

    Attributes:
        channels: feature maps at each level, from the finest.
        strides: down-sampling between levels: one fewer than `channels`.
        num_res_units: convolutions in each residual unit; 0: plain convolutions.
        norm: instance and group normalisation keep no running statistics; with batch normalisation the
            running statistics are averaged like weights.
    """

    name: Literal["UNet"] = "UNet"
    channels: tuple[int, ...] = Field((16, 32, 64, 128, 256), min_length=2, max_length=8)
    strides: tuple[int, ...] = Field((2, 2, 2, 2), min_length=1, max_length=7)
    num_res_units: int = Field(2, ge=0, le=8)
    kernel_size: Literal[3, 5, 7] = 3
    norm: Literal["instance", "batch", "group"] = "instance"
    act: Literal["PRELU", "LEAKYRELU", "RELU"] = "PRELU"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = (
        {},
        {"channels": [8, 16], "strides": [2], "num_res_units": 0, "norm": "batch", "act": "RELU"},
        {"channels": [8, 12, 16], "strides": [2, 1], "num_res_units": 1, "kernel_size": 5, "dropout": 0.1},
        {"channels": [4, 8], "strides": [8], "num_res_units": 0, "norm": "group", "act": "LEAKYRELU"},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(f"strides needs {len(self.channels) - 1} numbers: one fewer than channels")
        if min(self.channels) < 1 or min(self.strides) < 1:
            raise ValueError("channels and strides must be 1 or more")
        if self.norm == "group" and any(width % GROUPS for width in self.channels):
            raise ValueError(f'norm = "group" needs channels that are multiples of {GROUPS}')
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import UNet

        net: torch.nn.Module = UNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            channels=self.channels,
            strides=self.strides,
            kernel_size=self.kernel_size,
            num_res_units=self.num_res_units,
            norm=("group", {"num_groups": GROUPS}) if self.norm == "group" else self.norm,
            act=self.act,
            dropout=self.dropout,
        )
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Product of the strides."""
        return (prod(self.strides),) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        """With residual units the last block normalises as many feature maps as there are outputs."""
        if self.norm == "group" and self.num_res_units and outputs % GROUPS:
            return (
                f'norm = "group" cannot divide {outputs} outputs into {GROUPS} groups: '
                'use norm = "instance", or num_res_units = 0'
            )
        return None
