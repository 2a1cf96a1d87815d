"""A net from its description, with seeded initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from nets.architectures.base import NetSpec
from nets.registry import read_spec, spec_of


def build_for(experiment: Experiment) -> torch.nn.Module:
    """An experiment's net with its initial weights, as `build_net`."""
    task, dims = experiment.task, experiment.training.dims
    return build_net(spec_of(experiment), len(task.channels), task.out_channels, experiment.seed, dims)


def build_net(
    spec: Mapping[str, Any] | NetSpec, in_channels: int, out_channels: int, seed: int, dims: int = 3
) -> torch.nn.Module:
    """The net on the CPU, float32, in training mode; input (B, in_channels, *grid) with `dims` edges, output logits.

    The same seed gives the same weights, whatever was drawn before; the caller's random state stays as it was.

    Raises:
        ConfigError: no such net, or parameters that it does not take.
    """
    checked = spec if isinstance(spec, NetSpec) else read_spec(spec)
    if (why := checked.find_misfit(in_channels, out_channels, dims)) is not None:
        raise ConfigError(why, where="net")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return checked.build(in_channels, out_channels, dims)
