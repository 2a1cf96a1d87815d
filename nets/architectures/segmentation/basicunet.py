"""U-Net without residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

LEVELS = 5
GROUPS = 4
"""Groups of group normalisation."""


class BasicUNetSpec(NetSpec):
    """U-Net as first published, two convolutions a level: Ronneberger et al. 2015 (arXiv 1505.04597), Falk et al. 2019
    (doi 10.1038/s41592-018-0261-2); `monai.networks.nets.BasicUNet`.

    What does not halve evenly is padded on the way up, so that any patch will do.

    Attributes:
        features: feature maps at the five levels from the finest, then of the last convolutions.
        norm: with batch normalisation the running statistics are averaged like weights; the others keep none.
    """

    name: Literal["BasicUNet"] = "BasicUNet"
    features: tuple[int, ...] = Field((32, 32, 64, 128, 256, 32), min_length=LEVELS + 1, max_length=LEVELS + 1)
    norm: Literal["instance", "batch", "group"] = "instance"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    tried: ClassVar = (
        {"features": [4, 4, 8, 8, 16, 4]},
        {"features": [4, 4, 8, 8, 8, 4], "norm": "batch", "dropout": 0.1},
        {"features": [4, 4, 8, 8, 8, 4], "norm": "group"},
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if min(self.features) < 1:
            raise ValueError("features must be 1 or more")
        if any(width % 2 for width in self.features[1:LEVELS]):
            raise ValueError("the second to the fifth of features must be even: the way up halves them")
        if self.norm == "group" and any(width % GROUPS for width in self.features):
            raise ValueError(f'norm = "group" needs features that are multiples of {GROUPS}')
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import BasicUNet

        settings = {"instance": {"affine": True}, "batch": {}, "group": {"num_groups": GROUPS}}
        net: torch.nn.Module = BasicUNet(
            spatial_dims=dims,
            in_channels=inputs,
            out_channels=outputs,
            features=self.features,
            norm=(self.norm, settings[self.norm]),
            dropout=self.dropout,
        )
        return net

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Each level below the first halves the grid."""
        return (2 ** (LEVELS - 1),) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST
