"""How a tensor is written on the wire: codecs by name, each with its exact bytes, encoding and decoding by block.

A codec rewrites float32 tensors only. Every other dtype (counters, float64, float16, booleans) travels as its own
bytes under all of them. Two things travel in a training round, the global model and the updates: `Codec.model` names
the codec of the model under an experiment whose updates are in this codec.

bfloat16 is the upper half of a float32: sign, 8 bits of exponent, 7 of fraction (Kalamkar et al. 2019, "A Study of
BFLOAT16 for Deep Learning Training"). Rounding is to nearest, ties to even; a float32 above the largest bfloat16
becomes infinity, as IEEE 754 has it, and NaN stays NaN.

Codecs with memory. One that keeps what an update left unsaid (error feedback: Seide et al. 2014, "1-Bit Stochastic
Gradient Descent") fits in here so: `Codec.encode` takes one block more, the site's residual, beside `received`, and
writes the new residual to another; `Tensor` and `encode_tensor` pass both along by block as they pass `received`, and
`site_agent.training.files.write_update` reads the old residual from the spool and writes the new one beside the
update, named by the same attempt. It becomes the site's residual in the transaction that takes that attempt's
receipt, and goes with the attempt that is given up: so an attempt made again starts from the same residual and gives
the same bytes. No such codec is built yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

CodecName = Literal["float32", "bfloat16", "bfloat16-difference", "exact"]
Bytes = NDArray[np.uint8]

BLOCK = 2**15
"""Elements at a time: a float32 block and its scratch (256 KiB) stay in a core's second cache."""
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


class Codec:
    """`float32`: every tensor as its own bytes, little-endian. Base of the others."""

    name: ClassVar[CodecName] = "float32"
    model: ClassVar[CodecName] = "float32"
    difference: ClassVar[bool] = False
    """Whether a rewritten tensor is the trained one less the one that the site received."""

    @property
    def exact(self) -> bool:
        """Whether every tensor comes out as it went in."""
        return not self.rewrites("float32")

    def rewrites(self, dtype: str) -> bool:
        """Whether tensors of this dtype are written in another way than as their own bytes."""
        return False

    def nbytes(self, dtype: str, size: int) -> int:
        """Exact bytes on the wire of a tensor of `size` elements."""
        return ITEM_BYTES[dtype] * size

    def largest(self, dtype: str) -> float:
        """Largest magnitude that is still finite once written; for floating point only."""
        return float(np.finfo(dtype).max)

    def encode(self, values: NDArray[np.float32], wire: Bytes, received: NDArray[np.float32] | None) -> None:
        """Write one block of a tensor that this codec rewrites.

        Args:
            values: contiguous float32, at most BLOCK.
            wire: where the block's bytes go.
            received: the same block of the model that the site decoded, where `difference`.
        """
        raise NotImplementedError(self.name)

    def decode(self, wire: Bytes, out: NDArray[np.float32]) -> None:
        """Read one block that `encode` wrote."""
        raise NotImplementedError(self.name)


class Bfloat16(Codec):
    """float32 tensors as bfloat16, two bytes each."""

    name: ClassVar[CodecName] = "bfloat16"
    model: ClassVar[CodecName] = "bfloat16"

    def rewrites(self, dtype: str) -> bool:
        return dtype == "float32"

    def nbytes(self, dtype: str, size: int) -> int:
        return 2 * size if self.rewrites(dtype) else super().nbytes(dtype, size)

    def largest(self, dtype: str) -> float:
        # Halfway between the largest bfloat16 and the next, less one bit: what is above rounds to infinity.
        return float(np.uint32(0x7F7F7FFF).view(np.float32)) if self.rewrites(dtype) else super().largest(dtype)

    def encode(self, values: NDArray[np.float32], wire: Bytes, received: NDArray[np.float32] | None) -> None:
        bits, out = values.view(np.uint32), wire.view("<u2")
        rounded = np.right_shift(bits, 16)
        # Half of what is cut off, less one where the last bit kept is even: then a carry rounds ties to even.
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, bits, out=rounded)
        np.right_shift(rounded, 16, out=rounded)
        np.copyto(out, rounded, casting="unsafe")
        odd = np.isnan(values)
        if odd.any():
            # Rounding could carry a NaN into infinity or wrap it round: keep its upper bits, and make it quiet.
            out[odd] = (bits[odd] >> 16) | 0x0040

    def decode(self, wire: Bytes, out: NDArray[np.float32]) -> None:
        bits = out.view(np.uint32)
        np.copyto(bits, wire.view("<u2"))
        np.left_shift(bits, 16, out=bits)


class Bfloat16Difference(Bfloat16):
    """float32 tensors as the bfloat16 of (trained less received): rounding is relative to what changed."""

    name: ClassVar[CodecName] = "bfloat16-difference"
    difference: ClassVar[bool] = True

    def encode(self, values: NDArray[np.float32], wire: Bytes, received: NDArray[np.float32] | None) -> None:
        if received is None:
            raise ValueError("a difference needs the model that was received")
        with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite nothing finite comes: it is told
            changed = np.subtract(values, received)
        super().encode(changed, wire, None)


class Exact(Codec):
    """`float32` under the name that experiments, manifests and seals written before there were codecs hold."""

    name: ClassVar[CodecName] = "exact"


CODECS: Mapping[CodecName, Codec] = MappingProxyType(
    {one.name: one for one in (Codec(), Bfloat16(), Bfloat16Difference(), Exact())}
)
"""Every codec by the name that experiments and manifests use."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it lies on the wire, decoded by block where it is used.

    Attributes:
        wire: its bytes (of a mapped file, or of memory); never changed here.
    """

    codec: Codec
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    wire: Bytes

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read_block(self, start: int, stop: int, scratch: NDArray[np.float32]) -> NDArray[Any]:
        """Elements `start` to `stop` in C order, one-dimensional.

        Args:
            scratch: at least so many float32; what is returned may lie there, or in the wire's own memory (then it is
                not to be written).
        """
        item = self.codec.nbytes(self.dtype.name, 1)
        wire = self.wire[start * item : stop * item]
        if not self.codec.rewrites(self.dtype.name):
            return wire.view(self.dtype.newbyteorder("<"))
        out = scratch[: stop - start]
        self.codec.decode(wire, out)
        return out

    def read_into(self, out: NDArray[Any]) -> None:
        """Decode all of it into an array of its shape, whatever that array's strides.

        Raises:
            ValueError: shape or dtype differ.
        """
        if (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError(f"a tensor of {self.dtype} {self.shape} does not go into {out.dtype} {out.shape}")
        size = self.size
        scratch = np.empty(min(BLOCK, size), dtype=np.float32)
        flat = out.reshape(-1) if out.flags.c_contiguous else out.flat
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            flat[start:stop] = self.read_block(start, stop, scratch)

    def read_all(self) -> NDArray[Any]:
        """All of it as a new array."""
        out = np.empty(self.shape, dtype=self.dtype)
        self.read_into(out)
        return out


def encode_tensor(
    codec: Codec, values: NDArray[Any], received: Tensor | None = None, wire: Bytes | None = None
) -> Iterator[Bytes]:
    """The bytes of a tensor on the wire, block after block; O(block) of memory for any strides of `values`.

    Args:
        received: the tensor as the site received it, where the codec sends differences.
        wire: where the bytes are to lie; None: each block is valid until the next is asked for.

    Raises:
        ValueError: the codec needs `received`, or it is of another shape or dtype.
    """
    dtype, size = values.dtype.name, values.size
    flat = values.reshape(-1) if values.flags.c_contiguous else values.flat
    item = codec.nbytes(dtype, 1)
    if not codec.rewrites(dtype):
        if wire is not None:
            wire.view(values.dtype.newbyteorder("<")).reshape(values.shape)[...] = values
            yield wire
            return
        for start in range(0, size, BLOCK):
            yield np.ascontiguousarray(flat[start : start + BLOCK], values.dtype.newbyteorder("<")).view(np.uint8)
        return
    if codec.difference and (received is None or (received.shape, received.dtype) != (values.shape, values.dtype)):
        raise ValueError("a difference needs the tensor that was received")
    most = min(BLOCK, size)
    scratch = np.empty(most, dtype=np.float32)
    place = np.empty(most * item, dtype=np.uint8)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        out = place[: (stop - start) * item] if wire is None else wire[start * item : stop * item]
        base = received.read_block(start, stop, scratch) if codec.difference and received is not None else None
        codec.encode(flat[start:stop], out, base)
        yield out
