"""Tensors by name and shape, without torch: the model of a trainer of a site's own (`training.trainer`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from messages.ground.errors import ConfigError
from messages.ground.settings import Settings
from messages.ground.strictness import at_most
from messages.tensors.layout import Manifest, TensorSpec, view_tensors
from nets.architectures.base import CLASSIFICATION, SEGMENTATION, NetSize, NetSpec

if TYPE_CHECKING:
    import torch

MOST_TENSORS = 10_000
MOST_ELEMENTS = 2**38
"""Of all tensors together: 1 TiB of float32 (`messages.tensors.layout.MAX_BYTES`)."""


class NamedTensor(Settings):
    """One float32 tensor.

    Attributes:
        shape: edges; empty: a scalar.
        spread: standard deviation of the numbers that it begins with, drawn from the experiment's seed; 0: zeros.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_./:-]{1,200}$")
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**31 - 1)], ...], at_most(8)] = ()
    spread: float = Field(0.0, ge=0, le=100)

    @property
    def described(self) -> TensorSpec:
        """As a manifest says it."""
        return TensorSpec(name=self.name, shape=self.shape, dtype="float32")


class TensorsSpec(NetSpec):
    """No net: tensors by name, whose meaning a site's own trainer knows."""

    name: Literal["Tensors"] = "Tensors"
    tasks: ClassVar = SEGMENTATION | CLASSIFICATION
    foreign: ClassVar = True
    tensors: Annotated[tuple[NamedTensor, ...], at_most(MOST_TENSORS)] = ()
    tried: ClassVar = ({"tensors": [{"name": "weight", "shape": [2, 3], "spread": 0.1}, {"name": "bias"}]},)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if len({one.name for one in self.tensors}) != len(self.tensors):
            raise ValueError("tensors: a name comes twice")
        if sum(one.described.size for one in self.tensors) > MOST_ELEMENTS:
            raise ValueError("tensors: more than a model may hold")
        return self

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        raise ConfigError(f"net {self.name!r} cannot be built here", where="net.name")

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        return None if self.tensors else "name at least one tensor under net.tensors"

    def draw_without_net(self, seed: int) -> tuple[Manifest, bytearray]:
        """Normal float32, the same for the same seed, in the order of the file."""
        manifest = Manifest(tensors=tuple(one.described for one in self.tensors))
        buffer = bytearray(manifest.nbytes)
        draw = np.random.Generator(np.random.PCG64(seed))
        arrays = view_tensors(manifest, buffer)
        for one in self.tensors:
            if one.spread:
                arrays[one.name][...] = draw.standard_normal(one.shape, dtype=np.float32) * np.float32(one.spread)
        return manifest, buffer

    def size_without_net(self) -> NetSize:
        return NetSize(parameters=sum(one.described.size for one in self.tensors), kept_bytes=0)
