"""How deep a U-Net may be on a patch, and what it takes: nnU-Net v2's rules (Isensee et al. 2021, Nature Methods
18:203-211, supplementary note 2; `get_pool_and_conv_props` and `ExperimentPlanner` of MIC-DKFZ/nnUNet). Pure.

Axes are in nnU-Net's order: the one of largest spacing first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

LEAST_EDGE = 4
"""Of the coarsest feature map."""
BASE_FILTERS, MOST_FILTERS = 32, 320
BLOCKS = 2
"""Convolutions at each level, on the way down and up."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Levels of a net, from the finest.

    Attributes:
        strides: between levels: one fewer than levels. kernels: of the convolutions, by level.
        divisors: of the patch, by axis. patch: padded to a multiple of these.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]
    patch: tuple[int, ...]

    @property
    def filters(self) -> tuple[int, ...]:
        """Feature maps, by level."""
        return tuple(min(MOST_FILTERS, BASE_FILTERS * 2**level) for level in range(len(self.kernels)))


def find_topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """The deepest net on a patch: axes are halved as long as they have voxels left, those of small spacing first.

    An axis is halved while its spacing is less than twice the smallest of those that can be, and its edge is 8 or more;
    an axis alone needs 12. Kernels are 1 along an axis until its spacing is less than twice the smallest, then 3.
    """
    axes = range(len(spacing))
    here, size = list(spacing), list(patch)
    pools, kernel = [0] * len(here), [1] * len(here)
    strides: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    while valid := [axis for axis in axes if size[axis] >= 2 * LEAST_EDGE]:
        # nnU-Net reads the spacings of the valid axes by the number of the axis; where fewer are valid it fails or
        # reads a neighbour's. Meant is the axis' own.
        finest = min(here[axis] for axis in valid)
        valid = [axis for axis in valid if here[axis] / finest < 2]
        if len(valid) == 1 and size[valid[0]] < 3 * LEAST_EDGE:
            break
        kernel = [3 if edge == 3 or here[axis] / min(here) < 2 else 1 for axis, edge in enumerate(kernel)]
        for axis in valid:
            pools[axis] += 1
            here[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
        strides.append(tuple(2 if axis in valid else 1 for axis in axes))
        kernels.append(tuple(kernel))
    kernels.append((3,) * len(here))
    divisors = tuple(2**one for one in pools)
    return Topology(tuple(strides), tuple(kernels), divisors, _pad_patch(patch, divisors))


def _pad_patch(patch: Sequence[float], divisors: Sequence[int]) -> tuple[int, ...]:
    return tuple(ceil(edge / divisor) * divisor for edge, divisor in zip(patch, divisors, strict=True))


def count_features(topology: Topology, patch: Sequence[int], outputs: int) -> int:
    """Elements of all feature maps of one sample, by which nnU-Net foresees memory: of the convolutions of encoder and
    decoder, of the transposed convolutions, and of the outputs."""
    filters, size, total = topology.filters, list(patch), 0
    sizes: list[list[int]] = []
    for level, count in enumerate(filters):
        stride = (1,) * len(size) if level == 0 else topology.strides[level - 1]
        size = [edge // step for edge, step in zip(size, stride, strict=True)]
        sizes.append(size)
        total += BLOCKS * count * prod(size)
    for level in range(len(filters) - 1):
        total += (BLOCKS + 1) * filters[level] * prod(sizes[level])
    return total + outputs * prod(sizes[0])
