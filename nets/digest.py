"""The digest that names a model: the same weights have the same digest, however they travelled."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.tensors.layout import Buffer, Manifest, view_tensors

_DOMAIN = b"konsil-model-v1\0"


def model_digest(manifest: Manifest, buffer: Buffer) -> str:
    """SHA-256 (hex) of the model that lies in `buffer` as `manifest` says.

    Only names, dtypes, shapes and values count, in the manifest's order: chunk size and wire codec do not.
    """
    return arrays_digest(view_tensors(manifest, buffer))


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) over the tensors in their order.

    For each tensor: lengths and bytes of name and dtype, number of dimensions, each dimension, and the values
    little-endian in C order; integers as 8 bytes big-endian. Every part has its length in front, so no two models
    share an encoding.
    """
    state = sha256(_DOMAIN)
    state.update(_number_bytes(len(arrays)))
    for name, array in arrays.items():
        for text in (name.encode(), array.dtype.name.encode()):
            state.update(_number_bytes(len(text)))
            state.update(text)
        state.update(_number_bytes(array.ndim))
        for edge in array.shape:
            state.update(_number_bytes(edge))
        values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        if values.size:
            state.update(values.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _number_bytes(value: int) -> bytes:
    return value.to_bytes(8, "big")
