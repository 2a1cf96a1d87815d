"""U-shaped net with a transformer as its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch


class SwinUNETRSpec(NetSpec):
    """Swin UNETR: Hatamizadeh et al. 2022 (arXiv 2201.01266); `monai.networks.nets.SwinUNETR`; 62 million parameters in
    3D. Layer and instance norms, which keep no statistics.

    Attributes:
        feature_size: feature maps of the first level, a multiple of 12.
        depths: transformer blocks of the four stages.
        heads: attention heads of the four stages; each divides its stage's feature maps.
        window: edge of the windows that attention looks at.
        dropout, attention_dropout, path_dropout: chances that a value, an attention or a block is dropped.
    """

    name: Literal["SwinUNETR"] = "SwinUNETR"
    feature_size: int = Field(48, ge=12, le=192, multiple_of=12)
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = Field(7, ge=2, le=16)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    attention_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    path_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = (
        {"feature_size": 12, "window": 3, "depths": [1, 2, 1, 1], "heads": [1, 2, 2, 4], "dropout": 0.1},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if not (min(self.depths) >= 1 <= min(self.heads) and max(self.depths) <= 64):
            raise ValueError("depths are 1 to 64, heads 1 or more")
        widths = [self.feature_size * 2**stage for stage in range(4)]
        if any(width % heads for width, heads in zip(widths, self.heads, strict=True)):
            raise ValueError(f"heads must divide the stages' feature maps, which are {widths}")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import build_swin_unetr

        net: torch.nn.Module = build_swin_unetr(
            in_channels=inputs,
            out_channels=outputs,
            spatial_dims=dims,
            feature_size=self.feature_size,
            depths=self.depths,
            num_heads=self.heads,
            window_size=self.window,
            drop_rate=self.dropout,
            attn_drop_rate=self.attention_dropout,
            dropout_path_rate=self.path_dropout,
        )
        # Which weight belongs to which offset follows from the window: it need not travel, and is no number to average.
        index = "relative_position_index"
        for module in net.modules():
            if index in module._buffers:
                module.register_buffer(index, module._buffers[index], persistent=False)
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Five halvings."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST
