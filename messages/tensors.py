"""Tensors on the wire: a manifest, one contiguous buffer, chunks of it, and the seal over their digests.

The buffer is the tensors' bytes in the manifest's order, each C-contiguous and little-endian, without gaps.
Chunk `i` is `buffer[i * chunk_bytes : (i + 1) * chunk_bytes]`; an empty buffer has no chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from messages import codec
from messages.strictness import StrictModel, at_most

CHUNK_BYTES = 2**20
MAX_TENSORS = 100_000
MAX_BYTES = 2**40
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
Buffer = bytes | bytearray | memoryview | np.memmap[Any, Any] | NDArray[np.uint8]


class TensorSpec(StrictModel):
    """Name, shape and dtype of one tensor; `shape == ()` is a scalar."""

    name: str = Field(min_length=1, max_length=300)
    shape: Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], at_most(8)]
    dtype: Literal["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the buffer."""
        return self.size * ITEM_BYTES[self.dtype]


class Manifest(StrictModel):
    """What a transfer holds. `codec` "exact": the tensors' own bytes."""

    tensors: Annotated[tuple[TensorSpec, ...], Field(fail_fast=True), at_most(MAX_TENSORS)]
    codec: Literal["exact"] = "exact"
    chunk_bytes: int = Field(CHUNK_BYTES, ge=1024, le=8 * 2**20)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len({spec.name for spec in self.tensors}) != len(self.tensors):
            raise ValueError("a tensor's name comes twice")
        if self.nbytes > MAX_BYTES:
            raise ValueError(f"the tensors are larger than {MAX_BYTES} bytes")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of the whole buffer."""
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.nbytes // self.chunk_bytes)

    def chunk_range(self, index: int) -> tuple[int, int]:
        """First byte and end of chunk `index`; IndexError outside."""
        if not 0 <= index < self.chunks:
            raise IndexError(index)
        start = index * self.chunk_bytes
        return start, min(start + self.chunk_bytes, self.nbytes)

    def layout(self) -> Iterator[tuple[TensorSpec, int]]:
        """Each tensor with its first byte."""
        offset = 0
        for spec in self.tensors:
            yield spec, offset
            offset += spec.nbytes

    def same_tensors(self, other: Manifest) -> bool:
        """Whether names, shapes and dtypes agree, in order."""
        return self.tensors == other.tensors

    def plain(self) -> dict[str, Any]:
        """As plain types; `Manifest.model_validate` reads it back."""
        return self.model_dump(mode="json")


def manifest_of(arrays: Mapping[str, NDArray[Any]], chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """The manifest of named arrays, in their order; ValueError for a dtype that does not travel."""
    return Manifest(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(array.shape), dtype=array.dtype.name) for name, array in arrays.items()
        ),
        chunk_bytes=chunk_bytes,
    )


def write_into(arrays: Mapping[str, NDArray[Any]], manifest: Manifest, buffer: memoryview) -> None:
    """Copy the arrays to their places; one copy, whatever their strides.

    Raises:
        ValueError: an array is missing, or differs from the manifest in shape or dtype.
    """
    for spec, view in views(manifest, buffer).items():
        if spec not in arrays:
            raise ValueError(f"tensor {spec!r} is missing")
        array = arrays[spec]
        if array.shape != view.shape or array.dtype != view.dtype:
            raise ValueError(f"tensor {spec!r} is {array.dtype} {array.shape}, expected {view.dtype} {view.shape}")
        view[...] = array


def views(manifest: Manifest, buffer: Buffer) -> dict[str, NDArray[Any]]:
    """Arrays over the buffer's own memory, by name; writable where the buffer is."""
    flat = np.frombuffer(buffer, dtype=np.uint8)
    if flat.size < manifest.nbytes:
        raise ValueError(f"buffer of {flat.size} bytes, the manifest needs {manifest.nbytes}")
    return {
        spec.name: flat[start : start + spec.nbytes].view(np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)
        if spec.size
        else np.zeros(spec.shape, dtype=spec.dtype)
        for spec, start in manifest.layout()
    }


def chunk_digests(manifest: Manifest, buffer: Buffer) -> list[bytes]:
    """SHA-256 of each chunk."""
    data = np.frombuffer(buffer, dtype=np.uint8)
    return [sha256(data[slice(*manifest.chunk_range(index))].data).digest() for index in range(manifest.chunks)]


def seal(manifest: Manifest, digests: Iterable[bytes]) -> str:
    """SHA-256 (hex) over the canonical manifest and the chunks' digests: names a transfer's whole content."""
    state = sha256(codec.canonical(manifest.plain()))
    for digest in digests:
        state.update(digest)
    return state.hexdigest()
