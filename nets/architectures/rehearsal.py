"""The rehearsal model: seeded numbers in tensors of one size, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from messages.ground.errors import ConfigError
from messages.tensors.layout import Manifest, TensorSpec, view_tensors
from nets.architectures.base import CLASSIFICATION, SEGMENTATION, NetSize, NetSpec

if TYPE_CHECKING:
    import torch


class RehearsalSpec(NetSpec):
    """No net at all: tensors of one size, for rehearsing a network's wire, and for benchmarks.

    Only the null trainer (`site_agent.training.null`) can work with it, which a site's operator chooses.

    Attributes:
        tensors: number of float32 tensors.
        kilobytes: size of all of them together, in units of 1000 bytes, rounded down to whole elements each.
    """

    name: Literal["Rehearsal"] = "Rehearsal"
    tasks: ClassVar = SEGMENTATION | CLASSIFICATION
    tensors: int = Field(20, ge=1, le=1000)
    kilobytes: int = Field(1000, ge=1, le=4_000_000)
    tried: ClassVar = ({}, {"tensors": 3, "kilobytes": 30})

    @property
    def elements(self) -> int:
        """Elements of each tensor."""
        return self.kilobytes * 250 // self.tensors

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        raise ConfigError(f"net {self.name!r} cannot be built here", where="net.name")

    def draw_without_net(self, seed: int) -> tuple[Manifest, bytearray]:
        """Standard normal float32, the same for the same seed."""
        manifest = Manifest(
            tensors=tuple(
                TensorSpec(name=f"tensor-{number:03}", shape=(self.elements,), dtype="float32")
                for number in range(self.tensors)
            )
        )
        buffer = bytearray(manifest.nbytes)
        draw = np.random.Generator(np.random.PCG64(seed))
        for array in view_tensors(manifest, buffer).values():
            draw.standard_normal(dtype=np.float32, out=array)
        return manifest, buffer

    def size_without_net(self) -> NetSize:
        return NetSize(parameters=self.elements * self.tensors, kept_bytes=0)
