"""The finished model as one safetensors file that says all that rebuilds and uses the net."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from messages.errors import ConfigError, DataError
from messages.experiment import Experiment
from messages.tensors import Buffer, Manifest, views
from nets.build import build
from nets.digest import arrays_digest
from nets.weights import load

_KEY = "konsil"
FORMAT = 1


def save_model(
    path: Path, experiment: Experiment, manifest: Manifest, buffer: Buffer, *, round_number: int | None = None
) -> str:
    """Write the model; returns its digest.

    The metadata hold one JSON object under "konsil": format, experiment id and digest, round, model digest, the order
    of the tensors (safetensors sorts them), net, channels, regions, activation, preprocessing, patch and overlap.
    """
    arrays = views(manifest, buffer)
    plain = experiment.plain()
    metadata = {
        "format": FORMAT,
        "experiment": experiment.id,
        "experiment_digest": experiment.digest(),
        "round": round_number,
        "model_digest": arrays_digest(arrays),
        "tensors": list(arrays),
        "net": plain["net"],
        "channels": plain["task"]["channels"],
        "regions": plain["task"]["regions"],
        "activation": plain["task"]["activation"],
        "out_channels": experiment.task.out_channels,
        "preprocessing": plain["preprocessing"],
        "patch": plain["training"]["patch"],
        "overlap": plain["evaluation"]["overlap"],
    }
    save_arrays(path, arrays, metadata)
    return str(metadata["model_digest"])


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    beside = path.with_name(path.name + ".part")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, beside, metadata={_KEY: json.dumps(metadata)})
    beside.replace(path)


def load_model(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The net in evaluation mode, and its metadata.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
        DataError: the weights do not match the digest in the metadata.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in metadata["tensors"]}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ConfigError(f"is not a model of Konsil ({error})", where=str(path)) from None
    if arrays_digest(arrays) != metadata["model_digest"]:
        raise DataError("the weights do not match the file's own digest", where=str(path), advice="Copy it again")
    net = build(metadata["net"], len(metadata["channels"]), metadata["out_channels"], seed=0)
    load(net, arrays)
    return net.eval(), metadata
