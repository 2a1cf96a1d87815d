"""The name under which a net follows from the federation's data; no net itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from messages.ground.errors import ConfigError
from nets.architectures.base import NetSpec

if TYPE_CHECKING:
    import torch


class AutoSpec(NetSpec):
    """A DynUNet by nnU-Net's rules, once the sites have told statistics of their data (docs/auto.md).

    Attributes:
        memory_gib: memory of a GPU that the net is made for, in GiB; it can only lower the least that a site declares.
    """

    name: Literal["auto"] = "auto"
    dimensions: ClassVar = frozenset({3})
    memory_gib: float | None = Field(None, gt=0, le=4096)

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        raise ConfigError("it is configured from the sites' statistics, and nothing before", where="net.name")
