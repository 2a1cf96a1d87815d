"""The finished model as one safetensors file that says all that rebuilds and uses the net. Torch-free.

`nets.export.load_model` builds the net from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from messages.experiment import Experiment
from messages.ground.durable import writing_beside
from messages.ground.errors import ConfigError, DataError, WorkFailed
from messages.kinds import Combined, name_ensemble
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
    digest = arrays_digest(arrays)
    told = {"model_digest": digest, "tensors": list(arrays)}
    if len(arrays) < len(whole):
        told["announced_digest"] = arrays_digest(whole)
    _write_file(path, arrays, _describe(experiment, round_number) | told)
    return digest


def save_ensemble(
    path: Path, experiment: Experiment, combined: Combined, buffers: Mapping[str, Buffer], round_number: int
) -> None:
    """Write an ensemble as one file, whole or not at all: each tensor as "PART/NAME".

    The metadata also hold "ensemble": rule, weights and digests of the parts.

    Args:
        buffers: by part.

    Raises:
        WorkFailed: a part is not the model that its digest names.
        OSError: the file cannot be written.
    """
    parts = {label: view_tensors(combined.manifest, buffers[label]) for label in combined.parts}
    for label, arrays in parts.items():
        if arrays_digest(arrays) != combined.parts[label].model_digest:
            raise WorkFailed("the model's weights do not match the digest that was announced", where=label)
    told = {
        "model_digest": combined.model_digest,
        "tensors": [spec.name for spec in combined.manifest.tensors],
        "ensemble": {
            "rule": combined.rule,
            "reading": experiment.task.reading,
            "weights": dict(combined.weights),
            "digests": {label: one.model_digest for label, one in combined.parts.items()},
        },
    }
    named = {f"{label}/{name}": array for label, arrays in parts.items() for name, array in arrays.items()}
    _write_file(path, named, _describe(experiment, round_number) | told)


def _describe(experiment: Experiment, round_number: int | None) -> dict[str, Any]:
    plain = experiment.filled()
    return {
        "format": FORMAT,
        "experiment": experiment.id,
        "experiment_digest": experiment.digest(),
        "round": round_number,
        "net": {"name": experiment.net.name, **experiment.net.parameters},
        "channels": plain["task"]["channels"],
        **experiment.task.describe_outputs(),
        "out_channels": experiment.task.out_channels,
        "preprocessing": plain["preprocessing"],
        "patch": plain["training"]["patch"],
        "overlap": plain["evaluation"]["overlap"],
        **({"mirror": True} if experiment.evaluation.mirror else {}),
    }


def _write_file(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # a scalar stays one
    with writing_beside(path) as beside:
        save_file(contiguous, beside, metadata={_KEY: json.dumps(metadata)})


def read_metadata(path: Path) -> dict[str, Any]:
    """What a model file says of its model, without its weights.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            _needed = [metadata[key] for key in ("tensors", "model_digest", "net", "channels", "out_channels", "patch")]
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(f"is not a model of Konsil ({error})", where=str(path)) from None
    return metadata


def read_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The weights by name, in the net's order, and the metadata.

    Raises:
        ConfigError: the file is missing, or not a model that Konsil wrote.
        DataError: the weights do not match the digest in the metadata.
    """
    metadata = read_metadata(path)
    if "ensemble" in metadata:
        raise ConfigError("is an ensemble, not one model", where=str(path))
    arrays = _read_tensors(path, "", metadata)
    if arrays_digest(arrays) != metadata["model_digest"]:
        raise DataError("the weights do not match the file's own digest", where=str(path), advice="Copy it again")
    return arrays, metadata


def read_ensemble(path: Path) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, Any]]:
    """The weights of each part of an ensemble, and the metadata.

    Raises:
        ConfigError: the file is missing, or no ensemble that Konsil wrote.
        DataError: the weights do not match the digests in the metadata.
    """
    metadata = read_metadata(path)
    try:
        told = metadata["ensemble"]
        parts = {label: _read_tensors(path, f"{label}/", metadata) for label in told["digests"]}
        digests = {label: arrays_digest(arrays) for label, arrays in parts.items()}
        found = name_ensemble(told["rule"], {label: (digests[label], told["weights"][label]) for label in parts})
    except (KeyError, TypeError) as error:
        raise ConfigError(f"is not an ensemble of Konsil ({error})", where=str(path)) from None
    if found != metadata["model_digest"]:
        raise DataError("the weights do not match the file's own digest", where=str(path), advice="Copy it again")
    return parts, metadata


def _read_tensors(path: Path, prefix: str, metadata: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(f"{prefix}{name}") for name in metadata["tensors"]}
    except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(f"is not a model of Konsil ({error})", where=str(path)) from None
