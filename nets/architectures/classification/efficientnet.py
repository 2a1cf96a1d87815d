"""EfficientNet-B0."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nets.architectures.base import CLASSIFICATION, NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch


class EfficientNetB0Spec(NetSpec):
    """EfficientNet-B0: Tan and Le 2019 (arXiv 1905.11946); `monai.networks.nets.EfficientNetBN`; 5.3 million parameters
    in 2D. In training it leaves out layers by chance, as in the paper. The running statistics of its batch norms are
    averaged like weights; their momentum is 0.01, so that they follow a round of few steps slowly.
    """

    name: Literal["EfficientNetB0"] = "EfficientNetB0"
    batch_norm: ClassVar = True
    tasks: ClassVar = CLASSIFICATION

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import EfficientNetBN

        net: torch.nn.Module = EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=inputs, num_classes=outputs
        )
        return net

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Five halvings."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST
