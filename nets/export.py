"""A model file (`nets.model_file`) → the net, for whoever uses the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from messages.ground.errors import ConfigError
from nets.build import build_net
from nets.combined import CombinedNet
from nets.model_file import read_ensemble, read_metadata, read_model
from nets.weights import load_weights


def load_model(path: Path, own: Path | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The net in evaluation mode, and its metadata; of an ensemble one net that combines its parts.

    Args:
        own: what a site kept of its own: the newest file under STATE/cache/ID/strategy at that site. It holds the part
            of the net that never travelled (FedBN), or the whole personal net (Ditto). Not for an ensemble.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote; `own` cannot be read.
        WorkFailed: the tensors are not the net's, as where `own` is needed and not given.
        DataError: the weights do not match the digest in the metadata.
    """
    if "ensemble" in read_metadata(path):
        if own is not None:
            raise ConfigError("is an ensemble, which has no part of a site's own", where=str(path))
        return _load_ensemble(path)
    arrays, metadata = read_model(path)
    return _fill_net(metadata, {**arrays, **_read_own(own)}).eval(), metadata


def _load_ensemble(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    parts, metadata = read_ensemble(path)
    told = metadata["ensemble"]
    nets = [_fill_net(metadata, arrays) for arrays in parts.values()]
    weights = [told["weights"][label] for label in parts]
    return CombinedNet(nets, weights, told["rule"], reading=told["reading"]).eval(), metadata


def _fill_net(metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
    dims = len(metadata["patch"])
    net = build_net(metadata["net"], len(metadata["channels"]), metadata["out_channels"], seed=0, dims=dims)
    load_weights(net, arrays)
    return net


def _read_own(path: Path | None) -> dict[str, NDArray[Any]]:
    """A site's own tensors; a strategy's other memory has a colon in its names."""
    if path is None:
        return {}
    try:
        return {name: array for name, array in load_file(path).items() if ":" not in name}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from None
