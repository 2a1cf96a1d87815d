"""Which nets exist, and their parameters as strict models. Torch-free: coordinator and CLI read it too."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import Settings, parse


class NetSpec(Settings):
    """Parameters of one net. Subclasses name their paper and MONAI class."""

    name: str
    deterministic_on_cuda: ClassVar[bool] = True
    """Whether every operation has a backward pass that gives the same bits on a GPU."""

    def divisor(self) -> int:
        """Each edge of a patch must be a multiple of this."""
        return 1

    def unfit(self, outputs: int) -> str | None:
        """Why the net cannot have so many outputs; None where it can."""
        return None

    def least_voxels(self) -> int:
        """Voxels of a patch that must be left at the coarsest level for training."""
        return 1


class UNetSpec(NetSpec):
    """Residual 3D U-Net: Çiçek et al. 2016 (arXiv 1606.06650), Kerfoot et al. 2019; `monai.networks.nets.UNet`.

    Attributes:
        channels: feature maps at each level, from the finest.
        strides: down-sampling between levels: one fewer than `channels`.
        num_res_units: convolutions in each residual unit; 0: plain convolutions.
        norm: instance and group normalisation keep no running statistics; with batch normalisation the
            running statistics are averaged like weights.
    """

    name: Literal["UNet"] = "UNet"
    channels: tuple[int, ...] = Field((16, 32, 64, 128, 256), min_length=2, max_length=8)
    strides: tuple[int, ...] = Field((2, 2, 2, 2), min_length=1, max_length=7)
    num_res_units: int = Field(2, ge=0, le=8)
    kernel_size: Literal[3, 5, 7] = 3
    norm: Literal["instance", "batch", "group"] = "instance"
    act: Literal["PRELU", "LEAKYRELU", "RELU"] = "PRELU"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(f"strides needs {len(self.channels) - 1} numbers: one fewer than channels")
        if min(self.channels) < 1 or min(self.strides) < 1:
            raise ValueError("channels and strides must be 1 or more")
        if self.norm == "group" and any(width % GROUPS for width in self.channels):
            raise ValueError(f'norm = "group" needs channels that are multiples of {GROUPS}')
        return self

    def divisor(self) -> int:
        """Product of the strides."""
        return prod(self.strides)

    def unfit(self, outputs: int) -> str | None:
        """With residual units the last block normalises as many feature maps as there are outputs."""
        if self.norm == "group" and self.num_res_units and outputs % GROUPS:
            return (
                f'norm = "group" cannot divide {outputs} outputs into {GROUPS} groups: '
                'use norm = "instance", or num_res_units = 0'
            )
        return None

    def least_voxels(self) -> int:
        """A norm over a single voxel is nothing: torch refuses it in training."""
        return 2


class SegResNetSpec(NetSpec):
    """Residual encoder-decoder: Myronenko 2018 (arXiv 1810.11654); `monai.networks.nets.SegResNet`."""

    name: Literal["SegResNet"] = "SegResNet"
    deterministic_on_cuda: ClassVar[bool] = False  # trilinear up-sampling adds atomically
    init_filters: int = Field(8, ge=8, multiple_of=8)
    blocks_down: tuple[int, ...] = Field((1, 2, 2, 4), min_length=2, max_length=6)
    blocks_up: tuple[int, ...] = Field((1, 1, 1), min_length=1, max_length=5)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.blocks_up) != len(self.blocks_down) - 1:
            raise ValueError(f"blocks_up needs {len(self.blocks_down) - 1} numbers: one fewer than blocks_down")
        return self

    def divisor(self) -> int:
        """Each level below the first halves the grid."""
        return int(2 ** (len(self.blocks_down) - 1))


class RehearsalSpec(NetSpec):
    """No net at all: tensors of one size, for rehearsing a network's wire, and for benchmarks (`nets.rehearsal`).

    Only the null trainer (`site_agent.training.null`) can work with it, which a site's operator chooses.

    Attributes:
        tensors: number of float32 tensors.
        kilobytes: size of all of them together, in units of 1000 bytes, rounded down to whole elements each.
    """

    name: Literal["Rehearsal"] = "Rehearsal"
    tensors: int = Field(20, ge=1, le=1000)
    kilobytes: int = Field(1000, ge=1, le=4_000_000)

    @property
    def elements(self) -> int:
        """Elements of each tensor."""
        return self.kilobytes * 250 // self.tensors


GROUPS = 4
"""Groups of group normalisation in `UNet`."""

NETS: dict[str, type[NetSpec]] = {"UNet": UNetSpec, "SegResNet": SegResNetSpec, "Rehearsal": RehearsalSpec}


def known() -> list[str]:
    """Names of all nets."""
    return sorted(NETS)


def check(experiment: Experiment) -> NetSpec:
    """An experiment's net: it exists, takes these parameters, and fits the experiment's outputs and patch.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    spec = read({"name": experiment.net.name, **experiment.net.parameters})
    if (why := spec.unfit(experiment.task.out_channels)) is not None:
        raise ConfigError(why, where="net")
    divisor, patch = spec.divisor(), list(experiment.training.patch)
    if any(edge % divisor for edge in patch):
        raise ConfigError(
            f"training.patch = {patch}: each edge must be a multiple of {divisor}",
            where="net",
            advice=f"{spec.name} divides the grid by that with these parameters",
        )
    left = prod(edge // divisor for edge in patch)
    if left < spec.least_voxels():
        raise ConfigError(
            f"training.patch = {patch}: {spec.name} divides the grid by {divisor}, which leaves {left} voxel",
            where="net",
            advice="Use a larger patch, or fewer levels",
        )
    return spec


def read(spec: Mapping[str, Any], where: str = "net") -> NetSpec:
    """Check a `[net]` table: its name and that net's parameters.

    Raises:
        ConfigError: no such net, unknown parameter, or a value that is not allowed.
    """
    name = spec.get("name")
    if not isinstance(name, str) or name not in NETS:
        raise ConfigError(f"net {name!r} does not exist", where=where, advice=f"Known nets: {', '.join(known())}")
    return parse(dict(spec), NETS[name], where)
