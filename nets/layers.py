"""Layers of the nets that are written here, in two or three dimensions; MONAI's are in `nets.monai_parts`. torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

Norm = Literal["batch", "instance", "none"]
CONVOLUTIONS: Mapping[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: Mapping[tuple[str, int], type[nn.Module]] = {
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
}
DROPOUTS: Mapping[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
MAXIMA: Mapping[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
MEANS: Mapping[int, type[nn.Module]] = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def make_convolution(
    dims: int, inputs: int, outputs: int, kernel: int, norm: Norm, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution, norm and ReLU; with stride 1 the grid stays as it is. A bias only where there is no norm."""
    padding = dilation * (kernel // 2)
    shape = {"stride": stride, "padding": padding, "dilation": dilation, "bias": norm == "none"}
    parts: list[nn.Module] = [CONVOLUTIONS[dims](inputs, outputs, kernel, **shape)]
    if norm != "none":
        parts.append(NORMS[norm, dims](outputs, affine=True))
    return nn.Sequential(*parts, nn.ReLU(inplace=True))


def make_logits(dims: int, inputs: int, outputs: int) -> nn.Module:
    """A logit for each voxel and output."""
    return CONVOLUTIONS[dims](inputs, outputs, 1)


def make_dropout(dims: int, share: float) -> nn.Module:
    """Whole feature maps are dropped."""
    return DROPOUTS[dims](share)


def make_maximum(dims: int, kernel: int = 2, stride: int = 2, *, padding: int = 0, ceil: bool = False) -> nn.Module:
    """The largest value of each window; `ceil` keeps a last window that is not full."""
    return MAXIMA[dims](kernel, stride=stride, padding=padding, ceil_mode=ceil)


def make_mean(dims: int, edge: int = 1) -> nn.Sequential:
    """The mean over so many windows along each axis, as one vector a case: (B, channels * edge ** dims)."""
    return nn.Sequential(MEANS[dims](edge), nn.Flatten())


class Branches(nn.Module):
    """Several ways beside each other; their feature maps one after the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(sample) for branch in self.branches], dim=1)


def make_inception(
    dims: int,
    inputs: int,
    widths: tuple[int, int, int, int, int, int],
    norm: Norm,
    *,
    kernel: int = 5,
) -> Branches:
    """An Inception module: Szegedy et al. 2015 (arXiv 1409.4842), figure 2b.

    Args:
        widths: feature maps of 1, of 3 (reduced, then out), of 5 (reduced, then out), and of the pooled branch.
        kernel: of the branch of 5.
    """
    one, reduced_3, three, reduced_5, five, pooled = widths
    return Branches(
        make_convolution(dims, inputs, one, 1, norm),
        nn.Sequential(
            make_convolution(dims, inputs, reduced_3, 1, norm),
            make_convolution(dims, reduced_3, three, 3, norm),
        ),
        nn.Sequential(
            make_convolution(dims, inputs, reduced_5, 1, norm),
            make_convolution(dims, reduced_5, five, kernel, norm),
        ),
        nn.Sequential(
            make_maximum(dims, 3, 1, padding=1),
            make_convolution(dims, inputs, pooled, 1, norm),
        ),
    )


def draw_weights(net: nn.Module) -> nn.Module:
    """Draw a net's weights for ReLUs: He et al. 2015 (arXiv 1502.01852); fully connected layers with deviation 0.01, as
    Simonyan and Zisserman. Biases are 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return net
