"""A net out of DiNTS's search space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nets.architectures.base import NORM_LEAST, NetSpec

if TYPE_CHECKING:
    import torch

OPERATIONS = {2: 2, 3: 5}
"""Dimensions → what a path may do: nothing, a convolution; in 3D also one of three that are anisotropic."""


class DiNTSSpec(NetSpec):
    """DiNTS: He et al. 2021 (arXiv 2103.15954), living relative of C2FNAS (Yu et al. 2020, arXiv 1912.09628);
    `monai.networks.nets.DiNTS` and `TopologyInstance`.

    Blocks follow each other; each holds the nodes of all levels, from half the patch's resolution downwards. A path
    leads from a node to one of the next block: at the same level, one finer or one coarser. A search finds which paths
    there are and what each does; its result is given here, as MONAI's `arch_code` holds it. Nothing is searched.

    Without it the net is a U in this space: one way with convolutions down to the coarsest level and back, while
    every level is handed on as it is.

    Attributes:
        levels: resolutions. blocks: one after the other.
        width: 32 feature maps at full resolution are multiplied by this; each level has twice as many.
        paths: for each block one 0 or 1 a path. Their order is that of the node they lead to, then of the node they
            come from: for two levels 1 to 1, 2 to 1, 1 to 2, 2 to 2.
        operations: for each block one number a path: 0 nothing, 1 convolution of 3, and in 3D 2 to 4 of 3 x 3 x 1,
            3 x 1 x 3, 1 x 3 x 3.
    """

    name: Literal["DiNTS"] = "DiNTS"
    deterministic_on_cuda: ClassVar = frozenset()  # linear up-sampling adds atomically
    levels: int = Field(4, ge=2, le=4)
    blocks: int = Field(12, ge=2, le=16)
    width: float = Field(1.0, ge=0.125, le=2.0)
    paths: tuple[tuple[int, ...], ...] | None = None
    operations: tuple[tuple[int, ...], ...] | None = None
    tried: ClassVar = (
        {"levels": 2, "blocks": 3, "width": 0.125},
        {
            "levels": 2,
            "blocks": 2,
            "width": 0.125,
            "paths": [[1, 0, 1, 1], [1, 1, 0, 1]],
            "operations": [[0, 0, 1, 1], [1, 1, 0, 0]],
        },
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        if (self.paths is None) != (self.operations is None):
            raise ValueError("give paths and operations, or neither")
        if self.paths is None or self.operations is None:
            if self.blocks < 2 * (self.levels - 1):
                raise ValueError(f"blocks must be {2 * (self.levels - 1)} or more: down {self.levels} levels and up")
            return self
        steps = _steps(self.levels)
        for key, code, most in (
            ("paths", self.paths, 1),
            ("operations", self.operations, max(OPERATIONS.values()) - 1),
        ):
            if len(code) != self.blocks or any(len(block) != len(steps) for block in code):
                raise ValueError(f"{key} needs {self.blocks} lists of {len(steps)} numbers: a list a block")
            if any(not 0 <= one <= most for block in code for one in block):
                raise ValueError(f"{key} are 0 to {most}")
        reached: set[int] = set()
        for number, block in enumerate(self.paths, start=1):
            leave = {begin for (begin, _), on in zip(steps, block, strict=True) if on}
            if not leave or (number > 1 and leave != reached):
                raise ValueError(
                    f"block {number} of paths: paths leave the nodes that some path reaches, and no others"
                )
            reached = {end for (_, end), on in zip(steps, block, strict=True) if on}
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        from nets.monai_parts import DiNTS, TopologyInstance

        paths, operations = self._code()
        space = TopologyInstance(
            arch_code=[paths, operations],
            channel_mul=self.width,
            num_blocks=self.blocks,
            num_depths=self.levels,
            spatial_dims=dims,
            use_downsample=True,
        )
        nodes = np.zeros((self.blocks + 1, self.levels), dtype=np.int64)
        for path, (begin, end) in enumerate(_steps(self.levels)):
            nodes[0, begin] |= paths[0, path]
            nodes[1:, end] |= paths[:, path]
        net: torch.nn.Module = DiNTS(
            dints_space=space,
            in_channels=inputs,
            num_classes=outputs,
            spatial_dims=dims,
            use_downsample=True,
            node_a=nodes,
        )
        return net

    def divisors(self, dims: int) -> tuple[int, ...]:
        """The finest level has half the patch's resolution."""
        return (2**self.levels,) * dims

    def least_voxels(self) -> int:
        return NORM_LEAST

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        """Anisotropic operations are for 3D."""
        most = OPERATIONS[dims] - 1
        if self.operations is not None and any(one > most for block in self.operations for one in block):
            return f"operations are 0 to {most} in {dims}D"
        return None

    def _code(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Paths and operations, each (blocks, paths)."""
        if self.paths is not None and self.operations is not None:
            return np.array(self.paths), np.array(self.operations)
        steps, deepest = _steps(self.levels), self.levels - 1
        paths = np.array([[begin == end for begin, end in steps]] * self.blocks, dtype=np.int64)
        operations = np.zeros_like(paths)
        level = 0
        for block in range(self.blocks):
            going_up = self.blocks - block <= deepest
            end = level - 1 if going_up else min(level + 1, deepest)
            path = steps.index((level, end))
            paths[block, path] = operations[block, path] = 1
            level = end
        return paths, operations


def _steps(levels: int) -> list[tuple[int, int]]:
    """From which level to which each path leads, in MONAI's order."""
    return [(begin, end) for end in range(levels) for begin in (end - 1, end, end + 1) if 0 <= begin < levels]
