"""A model file (`nets.model_file`) → the net, for whoever uses the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from messages.ground.errors import ConfigError
from nets.build import build_net
from nets.model_file import read_model
from nets.weights import load_weights


def load_model(path: Path, own: Path | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The net in evaluation mode, and its metadata.

    Args:
        own: what a site kept of its own, where a part of the net never travelled (FedBN): the newest file under
            STATE/cache/ID/strategy at that site.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote; `own` cannot be read.
        WorkFailed: the tensors are not the net's, as where `own` is needed and not given.
        DataError: the weights do not match the digest in the metadata.
    """
    arrays, metadata = read_model(path)
    net = build_net(metadata["net"], len(metadata["channels"]), metadata["out_channels"], seed=0)
    load_weights(net, {**arrays, **_read_own(own)})
    return net.eval(), metadata


def _read_own(path: Path | None) -> dict[str, NDArray[Any]]:
    """A site's own tensors; a strategy's other memory has a colon in its names."""
    if path is None:
        return {}
    try:
        return {name: array for name, array in load_file(path).items() if ":" not in name}
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from None
