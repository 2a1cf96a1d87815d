"""V-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

WIDTH = 16
"""Feature maps of the first level, which the input is repeated to fill."""


class VNetSpec(NetSpec):
    """V-Net: Milletari et al. 2016 (arXiv 1606.04797); `monai.networks.nets.VNet`.

    Five levels of 16 to 256 feature maps and convolutions of 5³, as in the paper: 45.6 million parameters. Its batch
    normalisation keeps running statistics, which are averaged like weights.

    Attributes:
        act: the paper has PReLU; ELU is what the implementations that are used have.
        dropout_down, dropout_up: chance that a feature map is dropped, in the two deepest levels on each way.
        dropout_skip: the same for what is handed over to the way up, at every level.
    """

    name: Literal["VNet"] = "VNet"
    act: Literal["elu", "prelu", "relu"] = "elu"
    dropout_down: float = Field(0.5, ge=0.0, lt=1.0)
    dropout_up: float = Field(0.5, ge=0.0, lt=1.0)
    dropout_skip: float = Field(0.5, ge=0.0, lt=1.0)
    batch_norm: ClassVar = True
    tried: ClassVar = ({"act": "prelu"},)

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.layers import make_dropout
        from nets.monai_parts import VNet

        net = VNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            act=("elu", {"inplace": True}) if self.act == "elu" else self.act,
            dropout_prob_down=self.dropout_down,
            dropout_prob_up=(self.dropout_up, self.dropout_skip),
        )
        # MONAI's drops as in 3D also in 2D, and at the two finest levels 0.5 of what is handed over.
        for down in (net.down_tr128, net.down_tr256):
            down.dropout = make_dropout(dims, self.dropout_down)
        for up in (net.up_tr256, net.up_tr128):
            up.dropout = make_dropout(dims, self.dropout_up)
        for up in (net.up_tr256, net.up_tr128, net.up_tr64, net.up_tr32):
            up.dropout2 = make_dropout(dims, self.dropout_skip)
        built: torch.nn.Module = net
        return built

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Four halvings."""
        return (16,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        """The first block adds the input, repeated, to its feature maps."""
        if WIDTH % inputs:
            return f"VNet cannot repeat {inputs} channels to {WIDTH} feature maps: use 1, 2, 4, 8 or 16 channels"
        return None
