"""A model file (`nets.model_file`) → the net, for whoever uses the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nets.build import build_net
from nets.model_file import read_model
from nets.weights import load_weights


def load_model(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The net in evaluation mode, and its metadata.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
        DataError: the weights do not match the digest in the metadata.
    """
    arrays, metadata = read_model(path)
    dims = len(metadata["patch"])
    net = build_net(metadata["net"], len(metadata["channels"]), metadata["out_channels"], seed=0, dims=dims)
    load_weights(net, arrays)
    return net.eval(), metadata
