"""Weights of a net as named NumPy arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from messages.ground.errors import WorkFailed
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest, manifest_of

_COUNTERS = "num_batches_tracked"
"""Batch normalisation's integer counter: means nothing to a net with a momentum, and cannot be averaged."""


def arrays_of(net: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Parameters and buffers in the order of the state dict.

    On the CPU the arrays share the net's memory; from a GPU they are copies.
    """
    return {name: tensor.cpu().numpy() for name, tensor in _travelling_tensors(net).items()}


def manifest(net: torch.nn.Module) -> Manifest:
    """Names, shapes and dtypes, without copying from a GPU."""
    return manifest_of(
        {
            name: np.broadcast_to(np.empty((), _dtype_of(tensor)), tuple(tensor.shape))
            for name, tensor in _travelling_tensors(net).items()
        }
    )


def load_weights(net: torch.nn.Module, values: Mapping[str, NDArray[Any] | Tensor]) -> None:
    """Copy arrays into the net, or decode tensors of the wire straight into its memory.

    Raises:
        WorkFailed: a tensor is missing, unknown, or of another shape or dtype; the net is unchanged then.
    """
    targets = _travelling_tensors(net)
    if targets.keys() != values.keys():
        odd = sorted(targets.keys() ^ values.keys())
        raise WorkFailed(f"{len(odd)} tensors do not belong together, first {odd[0]!r}", where="weights")
    for name, target in targets.items():
        value = values[name]
        if tuple(target.shape) != value.shape or _dtype_of(target) != value.dtype:
            raise WorkFailed(
                f"tensor {name!r} is {value.dtype} {value.shape}, the net needs {target.dtype} {tuple(target.shape)}",
                where="weights",
            )
    with torch.no_grad():
        for name, target in targets.items():
            value = values[name]
            # torch refuses to share read-only memory without a warning: copy through a writable view of the target.
            if target.device.type == "cpu":
                _copy_tensor(value, target.numpy())
            else:
                whole = np.empty(value.shape, value.dtype)
                _copy_tensor(value, whole)
                target.copy_(torch.from_numpy(whole))


def _copy_tensor(value: NDArray[Any] | Tensor, out: NDArray[Any]) -> None:
    if isinstance(value, Tensor):
        value.read_into(out)
    else:
        np.copyto(out, value)


def _travelling_tensors(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in net.state_dict().items() if not name.endswith(_COUNTERS)}


def _dtype_of(tensor: torch.Tensor) -> np.dtype[Any]:
    return np.dtype(str(tensor.dtype).removeprefix("torch."))
