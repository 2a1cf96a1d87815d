"""Residual encoder-decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NetSpec

if TYPE_CHECKING:
    import torch


class SegResNetSpec(NetSpec):
    """Residual encoder-decoder: Myronenko 2018 (arXiv 1810.11654); `monai.networks.nets.SegResNet`."""

    name: Literal["SegResNet"] = "SegResNet"
    deterministic_on_cuda: ClassVar = frozenset()  # linear up-sampling adds atomically
    init_filters: int = Field(8, ge=8, multiple_of=8)
    blocks_down: tuple[int, ...] = Field((1, 2, 2, 4), min_length=2, max_length=6)
    blocks_up: tuple[int, ...] = Field((1, 1, 1), min_length=1, max_length=5)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = ({}, {"blocks_down": [1, 2, 1], "blocks_up": [1, 2], "dropout": 0.2})

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(f"blocks_up needs {len(self.blocks_down) - 1} numbers: one fewer than blocks_down")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import SegResNet

        net: torch.nn.Module = SegResNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            init_filters=self.init_filters,
            blocks_down=self.blocks_down,
            blocks_up=self.blocks_up,
            dropout_prob=self.dropout or None,
        )
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Each level below the first halves the grid."""
        return (2 ** (len(self.blocks_down) - 1),) * dims
