"""ResNet-18, -34 and -50."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from nets.architectures.base import CLASSIFICATION, NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch


class _ResNetSpec(NetSpec):
    """Residual net: He et al. 2016 (arXiv 1512.03385), in 3D Hara et al. 2018 (arXiv 1711.09577);
    `monai.networks.nets.ResNet`.

    A first convolution of 7 with stride 2, shortcuts by projection without bias, as in torchvision. The running
    statistics of its batch norms are averaged like weights.

    Attributes:
        width: feature maps of the first stage; each stage has twice as many as the one before.
    """

    batch_norm: ClassVar = True
    tasks: ClassVar = CLASSIFICATION
    block: ClassVar[Literal["basic", "bottleneck"]]
    layers: ClassVar[tuple[int, int, int, int]]
    width: int = Field(64, ge=1, le=512)
    tried: ClassVar = ({"width": 4},)

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import ResNet

        net: torch.nn.Module = ResNet(
            block=self.block,
            layers=list(self.layers),
            block_inplanes=[self.width * 2**stage for stage in range(4)],
            spatial_dims=dims,
            n_input_channels=inputs,
            conv1_t_size=7,
            conv1_t_stride=2,
            num_classes=outputs,
            bias_downsample=False,
        )
        return net

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Five halvings, each rounded up."""
        return (32,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST


class ResNet18Spec(_ResNetSpec):
    """ResNet-18: He et al. 2016 (arXiv 1512.03385); 11.7 million parameters in 2D."""

    name: Literal["ResNet18"] = "ResNet18"
    block: ClassVar = "basic"
    layers: ClassVar = (2, 2, 2, 2)


class ResNet34Spec(_ResNetSpec):
    """ResNet-34: He et al. 2016 (arXiv 1512.03385); 21.8 million parameters in 2D."""

    name: Literal["ResNet34"] = "ResNet34"
    block: ClassVar = "basic"
    layers: ClassVar = (3, 4, 6, 3)


class ResNet50Spec(_ResNetSpec):
    """ResNet-50: He et al. 2016 (arXiv 1512.03385); 25.6 million parameters in 2D."""

    name: Literal["ResNet50"] = "ResNet50"
    block: ClassVar = "bottleneck"
    layers: ClassVar = (3, 4, 6, 3)
