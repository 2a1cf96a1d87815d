"""U-Net whose kernels and strides may differ by level and axis."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

PerAxis = int | tuple[int, ...]
"""One number for all axes, or one for each."""


class DynUNetSpec(NetSpec):
    """nnU-Net's net: Isensee et al. 2021 (arXiv 1904.08128); `monai.networks.nets.DynUNet`.

    Attributes:
        filters: feature maps at each level, from the finest.
        strides: down-sampling between levels: one fewer than `filters`.
        kernel_size: of the convolutions of each level, or of all.
        residual: residual blocks.
        deep_supervision: levels below the finest with an output of their own, whose loss counts 1/2, 1/4, ... of the
            finest one's; nnU-Net has three fewer than `filters`.
        norm: with batch normalisation the running statistics are averaged like weights; instance keeps none.
    """

    name: Literal["DynUNet"] = "DynUNet"
    filters: tuple[int, ...] = Field((32, 64, 128, 256, 320), min_length=3, max_length=8)
    strides: tuple[PerAxis, ...] = Field((2, 2, 2, 2), min_length=2, max_length=7)
    kernel_size: int | tuple[PerAxis, ...] = 3
    residual: bool = False
    norm: Literal["instance", "batch"] = "instance"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    deep_supervision: int = Field(0, ge=0, le=5)
    tried: ClassVar = (
        {"filters": [4, 8, 12], "strides": [2, 2]},
        {"filters": [4, 4, 8], "strides": [1, 3], "kernel_size": [1, 3, 3], "norm": "batch", "dropout": 0.1},
        {"filters": [4, 4, 8, 8], "strides": [2, 2, 1], "kernel_size": [3, 5, 3, 3], "residual": True},
        {"filters": [4, 4, 8, 8], "strides": [2, 2, 2], "deep_supervision": 2},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if len(self.strides) != len(self.filters) - 1:
            raise ValueError(f"strides needs {len(self.filters) - 1} numbers: one fewer than filters")
        if not isinstance(self.kernel_size, int) and len(self.kernel_size) != len(self.filters):
            raise ValueError(f"kernel_size needs one number, or {len(self.filters)}: as many as filters")
        if self.deep_supervision > len(self.filters) - 2:
            raise ValueError(f"deep_supervision is at most {len(self.filters) - 2}: two fewer than filters")
        if min(self.filters) < 1:
            raise ValueError("filters must be 1 or more")
        if not {edge for one in self._kernels for edge in _by_axis(one, 1)} <= {1, 3, 5, 7}:
            raise ValueError("kernel_size is 1, 3, 5 or 7")
        for stride, kernel in zip(self.strides, self._kernels[1:], strict=True):
            axes = max(len(_by_axis(stride, 1)), len(_by_axis(kernel, 1)))
            steps, edges = _by_axis(stride, axes), _by_axis(kernel, axes)
            if len(steps) != len(edges):
                raise ValueError("strides and kernel_size have as many numbers at a level as training.patch")
            if min(steps) < 1 or any(step > edge + 1 for step, edge in zip(steps, edges, strict=True)):
                raise ValueError("a stride is 1 or more, and at most one more than the kernel of the level below it")
            if self.residual and max(steps) > 2:
                raise ValueError("residual = true takes strides of 1 and 2")
        return self

    @property
    def supervised_levels(self) -> int:
        return self.deep_supervision

    @property
    def _kernels(self) -> tuple[PerAxis, ...]:
        kernels = self.kernel_size
        return (kernels,) * len(self.filters) if isinstance(kernels, int) else kernels

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import SupervisedUNet

        strides = [_by_axis(one, dims) for one in self.strides]
        net: torch.nn.Module = SupervisedUNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            kernel_size=[_by_axis(one, dims) for one in self._kernels],
            strides=[(1,) * dims, *strides],
            upsample_kernel_size=strides,
            filters=self.filters,
            dropout=self.dropout or None,
            norm_name=("instance", {"affine": True}) if self.norm == "instance" else "batch",
            res_block=self.residual,
            deep_supervision=bool(self.supervised_levels),
            deep_supr_num=max(1, self.supervised_levels),
        )
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Product of the strides along each axis."""
        return tuple(map(prod, zip(*(_by_axis(one, dims) for one in self.strides), strict=True)))

    def least_voxels(self) -> int:
        return NORM_LEAST

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        """A level that names its axes names all of them."""
        for key, levels in (("strides", self.strides), ("kernel_size", self._kernels)):
            if odd := [one for one in levels if not isinstance(one, int) and len(one) != dims]:
                return f"{key} = {list(odd[0])}: give one number, or {dims}, as training.patch has"
        return None


def _by_axis(value: PerAxis, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else value
