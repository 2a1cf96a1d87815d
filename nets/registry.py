"""Which nets exist, and whether one fits an experiment. Torch-free: coordinator and CLI read it too."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings, suggest_word
from nets.architectures.base import NetSpec
from nets.architectures.rehearsal import RehearsalSpec
from nets.architectures.segresnet import SegResNetSpec
from nets.architectures.unet import UNetSpec
from nets.architectures.vnet import VNetSpec

NETS: Mapping[str, type[NetSpec]] = {
    "UNet": UNetSpec,
    "SegResNet": SegResNetSpec,
    "VNet": VNetSpec,
    "Rehearsal": RehearsalSpec,
}


def known_nets() -> list[str]:
    """Names of all nets."""
    return sorted(NETS)


def check_net(experiment: Experiment) -> NetSpec:
    """An experiment's net: it exists, takes these parameters, and fits the experiment's channels, outputs and patch.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    spec = read_spec({"name": experiment.net.name, **experiment.net.parameters})
    if (why := spec.find_misfit(len(experiment.task.channels), experiment.task.out_channels)) is not None:
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


def read_spec(spec: Mapping[str, Any], where: str = "net") -> NetSpec:
    """Check a `[net]` table: its name and that net's parameters.

    Raises:
        ConfigError: no such net, unknown parameter, or a value that is not allowed.
    """
    name = spec.get("name")
    if not isinstance(name, str) or name not in NETS:
        meant = suggest_word(name, NETS) if isinstance(name, str) else ""
        what = f"net {name!r} does not exist{meant}"
        raise ConfigError(what, where=where, advice=f"Known nets: {', '.join(known_nets())}")
    return parse_settings(dict(spec), NETS[name], where)
