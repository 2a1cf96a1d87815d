"""Tensors on the wire: a manifest, one contiguous buffer, chunks of it, and the seal over their digests.

The buffer is the tensors' bytes in the manifest's order, each C-contiguous and little-endian in the manifest's codec
(`messages.tensors.codecs`), without gaps. Files, blobs, chunks and digests are of these bytes: what a model's numbers
are is decoded where they are used, by block.
Chunk `i` is `buffer[i * chunk_bytes : (i + 1) * chunk_bytes]`; an empty buffer has no chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from messages import codec
from messages.ground.strictness import StrictModel, at_most
from messages.tensors.codecs import CODECS, CodecName, Tensor, encode_tensor

CHUNK_BYTES = 2**20
MAX_TENSORS = 100_000
MAX_BYTES = 2**40
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


class Manifest(StrictModel):
    """What a transfer holds: `tensors` are names, shapes and dtypes once decoded; `codec` is how they are written."""

    tensors: Annotated[tuple[TensorSpec, ...], Field(fail_fast=True), at_most(MAX_TENSORS)]
    codec: CodecName = "float32"
    chunk_bytes: int = Field(CHUNK_BYTES, ge=1024, le=8 * 2**20)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        if len({spec.name for spec in self.tensors}) != len(self.tensors):
            raise ValueError("a tensor's name comes twice")
        if self.nbytes > MAX_BYTES:
            raise ValueError(f"the tensors are larger than {MAX_BYTES} bytes")
        return self

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the whole buffer, on the wire and in files."""
        written = CODECS[self.codec]
        return sum(written.nbytes(spec.dtype, spec.size) for spec in self.tensors)

    def in_codec(self, name: CodecName) -> Manifest:
        """The same tensors and chunk size in another codec."""
        if name == self.codec:
            return self
        other = self.model_copy(update={"codec": name})
        other.__dict__.pop("nbytes", None)  # the copy keeps what was counted for the other codec
        return other

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

    def place_tensors(self) -> Iterator[tuple[TensorSpec, int]]:
        """Each tensor with its first byte."""
        offset, written = 0, CODECS[self.codec]
        for spec in self.tensors:
            yield spec, offset
            offset += written.nbytes(spec.dtype, spec.size)

    def same_tensors(self, other: Manifest) -> bool:
        """Whether names, shapes and dtypes agree, in order; codec and chunk size may differ."""
        return self.tensors == other.tensors

    def plain(self) -> dict[str, Any]:
        """As plain types; `Manifest.model_validate` reads it back."""
        return self.model_dump(mode="json")


def manifest_of(
    arrays: Mapping[str, NDArray[Any]], chunk_bytes: int = CHUNK_BYTES, codec: CodecName = "float32"
) -> Manifest:
    """The manifest of named arrays, in their order; ValueError for a dtype that does not travel."""
    return Manifest(
        tensors=tuple(
            TensorSpec(name=name, shape=tuple(array.shape), dtype=array.dtype.name) for name, array in arrays.items()
        ),
        chunk_bytes=chunk_bytes,
        codec=codec,
    )


def write_into(
    arrays: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    buffer: memoryview,
    received: Mapping[str, Tensor] | None = None,
) -> None:
    """Encode the arrays to their places; one pass, whatever their strides.

    Args:
        received: the model as the site received it, for a codec that sends differences.

    Raises:
        ValueError: an array is missing, or differs from the manifest in shape or dtype; the codec needs `received`.
    """
    for spec, wire in _place_views(manifest, buffer):
        for _block in _write_tensor(spec, manifest, arrays, received, wire):
            pass


def write_blocks(
    arrays: Mapping[str, NDArray[Any]], manifest: Manifest, received: Mapping[str, Tensor] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The buffer's bytes in their order, as `write_into` would write them, block by block: for a file or a socket.

    A block is valid until the next one is asked for. Each array is asked for once, in the manifest's order, so a lazy
    mapping needs the memory of one tensor.

    Raises:
        ValueError: as `write_into`.
    """
    for spec in manifest.tensors:
        yield from _write_tensor(spec, manifest, arrays, received, None)


def _write_tensor(
    spec: TensorSpec,
    manifest: Manifest,
    arrays: Mapping[str, NDArray[Any]],
    received: Mapping[str, Tensor] | None,
    wire: NDArray[np.uint8] | None,
) -> Iterator[NDArray[np.uint8]]:
    if spec.name not in arrays:
        raise ValueError(f"tensor {spec.name!r} is missing")
    array = arrays[spec.name]
    if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
        raise ValueError(f"tensor {spec.name!r} is {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}")
    if spec.size:
        before = None if received is None else received.get(spec.name)
        yield from encode_tensor(CODECS[manifest.codec], array, before, wire)


def _place_views(manifest: Manifest, buffer: Buffer) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
    """Each tensor with its bytes in the buffer; ValueError for a buffer that is too small."""
    flat = np.frombuffer(buffer, dtype=np.uint8)
    if flat.size < manifest.nbytes:
        raise ValueError(f"buffer of {flat.size} bytes, the manifest needs {manifest.nbytes}")
    written = CODECS[manifest.codec]
    for spec, start in manifest.place_tensors():
        yield spec, flat[start : start + written.nbytes(spec.dtype, spec.size)]


def tensors_of(manifest: Manifest, buffer: Buffer) -> dict[str, Tensor]:
    """The tensors as they lie in the buffer, by name; each is decoded where it is used.

    Raises:
        ValueError: the buffer is too small.
    """
    return dict(zip((spec.name for spec in manifest.tensors), each_tensor(manifest, buffer), strict=True))


def each_tensor(manifest: Manifest, buffer: Buffer) -> Iterator[Tensor]:
    """The same one by one, in the manifest's order: of 1,000 buffers at once nobody needs all tensors at once."""
    written = CODECS[manifest.codec]
    for spec, wire in _place_views(manifest, buffer):
        yield Tensor(written, np.dtype(spec.dtype), spec.shape, wire)


def view_tensors(manifest: Manifest, buffer: Buffer) -> dict[str, NDArray[Any]]:
    """Arrays over the buffer's own memory, by name; writable where the buffer is.

    Raises:
        ValueError: the codec does not write tensors as their own bytes, or the buffer is too small.
    """
    if any(CODECS[manifest.codec].rewrites(spec.dtype) for spec in manifest.tensors):
        raise ValueError(f"tensors in {manifest.codec} have to be decoded: use tensors_of")
    return {
        spec.name: wire.view(np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)
        if spec.size
        else np.zeros(spec.shape, dtype=spec.dtype)
        for spec, wire in _place_views(manifest, buffer)
    }


def chunk_digests(manifest: Manifest, buffer: Buffer) -> list[bytes]:
    """SHA-256 of each chunk."""
    data = np.frombuffer(buffer, dtype=np.uint8)
    return [sha256(data[slice(*manifest.chunk_range(index))].data).digest() for index in range(manifest.chunks)]


def seal_transfer(manifest: Manifest, digests: Iterable[bytes]) -> str:
    """SHA-256 (hex) over the canonical manifest and the chunks' digests: names a transfer's whole content."""
    state = sha256(codec.canonical(manifest.plain()))
    for digest in digests:
        state.update(digest)
    return state.hexdigest()
