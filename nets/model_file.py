"""The finished model as one safetensors file that says all that rebuilds and uses the net. Torch-free.

`nets.export.load_model` builds the net from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from messages.experiment import Experiment
from messages.ground.durable import writing_beside
from messages.ground.errors import ConfigError, DataError
from messages.tensors.layout import Buffer, Manifest, view_tensors
from messages.tensors.travelling import is_beside
from nets.digest import arrays_digest

_KEY = "konsil"
FORMAT = 1


def save_model(
    path: Path, experiment: Experiment, manifest: Manifest, buffer: Buffer, *, round_number: int | None = None
) -> str:
    """Write the model, whole or not at all; returns its digest.

    The metadata hold one JSON object under "konsil": format, experiment id and digest, round, model digest, the order
    of the tensors (safetensors sorts them), net, channels, what the task says of its outputs, preprocessing, patch
    and overlap. What travelled beside the net (a strategy's control variates) is left out; then "announced_digest" is
    the digest of all that travelled, which the event log names.

    Raises:
        OSError: the file cannot be written.
    """
    whole = view_tensors(manifest, buffer)
    arrays = {name: array for name, array in whole.items() if not is_beside(name)}
    plain = experiment.filled()
    digest = arrays_digest(arrays)
    metadata = {
        "format": FORMAT,
        "experiment": experiment.id,
        "experiment_digest": experiment.digest(),
        "round": round_number,
        "model_digest": digest,
        "tensors": list(arrays),
        "net": plain["net"],
        "channels": plain["task"]["channels"],
        **experiment.task.describe_outputs(),
        "out_channels": experiment.task.out_channels,
        "preprocessing": plain["preprocessing"],
        "patch": plain["training"]["patch"],
        "overlap": plain["evaluation"]["overlap"],
    }
    if len(arrays) < len(whole):
        metadata["announced_digest"] = arrays_digest(whole)
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with writing_beside(path) as beside:
        save_file(contiguous, beside, metadata={_KEY: json.dumps(metadata)})
    return digest


def read_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The weights by name, in the net's order, and the metadata.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
        DataError: the weights do not match the digest in the metadata.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[_KEY])
            arrays = {name: file.get_tensor(name) for name in metadata["tensors"]}
            said = metadata["model_digest"]
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(f"is not a model of Konsil ({error})", where=str(path)) from None
    if arrays_digest(arrays) != said:
        raise DataError("the weights do not match the file's own digest", where=str(path), advice="Copy it again")
    return arrays, metadata
