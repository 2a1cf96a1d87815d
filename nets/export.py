"""A model file (`nets.model_file`) → the net, for whoever uses the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from nets.build import build_net
from nets.combined import CombinedNet
from nets.model_file import read_ensemble, read_metadata, read_model
from nets.weights import load_weights


def load_model(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The net in evaluation mode, and its metadata; of an ensemble one net that combines its parts.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
        DataError: the weights do not match the digest in the metadata.
    """
    if "ensemble" in (metadata := read_metadata(path)):
        return _load_ensemble(path)
    arrays, metadata = read_model(path)
    return _fill_net(metadata, arrays).eval(), metadata


def _load_ensemble(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    parts, metadata = read_ensemble(path)
    told = metadata["ensemble"]
    nets = [_fill_net(metadata, arrays) for arrays in parts.values()]
    weights = [told["weights"][label] for label in parts]
    return CombinedNet(nets, weights, told["rule"], reading=told["reading"]).eval(), metadata


def _fill_net(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
    net = build_net(metadata["net"], len(metadata["channels"]), metadata["out_channels"], seed=0)
    load_weights(net, arrays)
    return net
