"""Gaussian derivatives of an image, as a layer without weights. torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

import torch
from torch import nn
from torch.nn.functional import instance_norm

_REACH = 3
"""Standard deviations at which a Gaussian is cut off."""


class Jets(nn.Module):
    """(B, inputs, *grid) → (B, outputs, *grid): all derivatives at all scales, each of mean 0 and variance 1.

    Args:
        dims: edges of the grid.
        scales: standard deviations, voxels.
        order: of derivatives, over all axes together.
        positions: with a voxel's coordinates from -1 to 1, their squares and products.
    """

    def __init__(self, dims: int, inputs: int, scales: Sequence[float], order: int, *, positions: bool) -> None:
        super().__init__()
        self.dims, self.order, self.positions = dims, order, positions
        self.pairs = [*combinations_with_replacement(range(dims), 2)] if positions else []
        self.scales = len(scales)
        for number, scale in enumerate(scales):
            # Not persistent: they are no weights, and do not travel.
            self.register_buffer(f"kernels{number}", _make_kernels(scale), persistent=False)
        each = math.comb(order + dims, dims)
        self.outputs = inputs * len(scales) * each + (dims + len(self.pairs) if positions else 0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for number in range(self.scales):
            found += self._derive(images, self.get_buffer(f"kernels{number}"), 0, self.order)
        if self.positions:
            places = [*self._lay_grid(images)]
            found += places + [places[one] * places[other] for one, other in self.pairs]
        return instance_norm(torch.cat(found, 1))

    def _derive(self, images: torch.Tensor, kernels: torch.Tensor, axis: int, order: int) -> Iterator[torch.Tensor]:
        """All derivatives along this axis and those behind it."""
        if axis == self.dims:
            yield images
            return
        place = 2 + axis
        edge = images.shape[place]
        for times in range(order + 1):
            # As a product with a band matrix: along one axis of a patch faster than torch's convolutions by four times.
            band = _lay_band(kernels[times], edge).to(images.dtype)
            derived = (images.transpose(place, -1) @ band).transpose(place, -1)
            yield from self._derive(derived, kernels, axis + 1, order - times)

    def _lay_grid(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        for axis in range(self.dims):
            edge, shape = images.shape[2 + axis], [1] * (self.dims + 2)
            shape[2 + axis] = edge
            line = torch.linspace(-1, 1, edge, device=images.device, dtype=images.dtype).view(shape)
            yield line.expand(images.shape[0], 1, *images.shape[2:])


def _lay_band(kernel: torch.Tensor, edge: int) -> torch.Tensor:
    """The matrix (edge, edge) that a line is multiplied with to be convolved; beyond its ends there are zeros."""
    width = kernel.shape[0]
    line = torch.arange(edge, device=kernel.device)
    away = line[:, None] - line[None, :] + width // 2
    inside = (away >= 0) & (away < width)
    return torch.where(inside, kernel[away.clamp(0, width - 1)], torch.zeros((), device=kernel.device))


def _make_kernels(scale: float) -> torch.Tensor:
    """Gaussian, first and second derivative in units of the scale: (3, width)."""
    reach = math.ceil(_REACH * scale)
    line = [x / scale for x in range(-reach, reach + 1)]
    bell = [math.exp(-x * x / 2) for x in line]
    whole = sum(bell)
    return torch.tensor(
        [
            [one / whole for one in bell],
            [-x * one / whole for x, one in zip(line, bell, strict=True)],
            [(x * x - 1) * one / whole for x, one in zip(line, bell, strict=True)],
        ]
    )
