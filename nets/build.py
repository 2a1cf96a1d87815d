"""A net from its description, with seeded initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets import SegResNet, UNet

from messages.ground.errors import ConfigError
from nets.registry import GROUPS, NetSpec, SegResNetSpec, UNetSpec, read


def build(spec: Mapping[str, Any] | NetSpec, in_channels: int, out_channels: int, seed: int) -> torch.nn.Module:
    """The net on the CPU, float32, in training mode; input (B, in_channels, X, Y, Z), output logits.

    The same seed gives the same weights, whatever was drawn before; the caller's random state stays as it was.

    Raises:
        ConfigError: no such net, or parameters that it does not take.
    """
    checked = spec if isinstance(spec, NetSpec) else read(spec)
    if (why := checked.unfit(out_channels)) is not None:
        raise ConfigError(why, where="net")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match checked:
            case UNetSpec():
                net: torch.nn.Module = _unet(checked, in_channels, out_channels)
            case SegResNetSpec():
                net = SegResNet(
                    spatial_dims=3,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    init_filters=checked.init_filters,
                    blocks_down=checked.blocks_down,
                    blocks_up=checked.blocks_up,
                    dropout_prob=checked.dropout or None,
                )
            case _:
                raise ConfigError(f"net {checked.name!r} cannot be built here", where="net.name")
    return net


def _unet(spec: UNetSpec, in_channels: int, out_channels: int) -> torch.nn.Module:
    norm = ("group", {"num_groups": GROUPS}) if spec.norm == "group" else spec.norm
    net: torch.nn.Module = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=spec.channels,
        strides=spec.strides,
        kernel_size=spec.kernel_size,
        num_res_units=spec.num_res_units,
        norm=norm,
        act=spec.act,
        dropout=spec.dropout,
    )
    return net
