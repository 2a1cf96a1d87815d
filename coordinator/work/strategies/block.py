"""One block of one tensor, with all that goes into it: what a strategy combines.

The bits of what is made depend on nothing but the values and the order of the sites: each operation is one NumPy
operation in float64, multiplied and then added, never fused (a fused multiply-add rounds once instead of twice, on some
processors only). IEEE 754 gives addition, multiplication, division and square root one right result each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.tensors.codecs import Codec, Tensor

Values = NDArray[np.float64]
Kept = NDArray[np.float32]


class Scratch:
    """What one thread works in: some float64 and float32 blocks, made when they are first asked for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.total = np.empty(most, dtype=np.float64)
        self.term = np.empty(most, dtype=np.float64)
        self.decoded = np.empty(most, dtype=np.float32)
        self._more: dict[str, NDArray[Any]] = {}

    def more(self, name: str, dtype: type[Any] = np.float64) -> NDArray[Any]:
        """A block of one's own under a name."""
        found = self._more.get(name)
        if found is None:
            found = self._more[name] = np.empty(self._most, dtype=dtype)
        return found


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the result, with everything that goes into it.

    Attributes:
        sources: (share, update) in the order of the sites' names.
        differences: whether the updates are differences from the model that the sites received.
        model: the round's own exact model; None where it was not given.
        sent_in: the codec in which the sites received it.
        out: where the result goes, flat.
        before, after: by part, the strategy's memory for this tensor: as it was (nothing in the first round), as it is
            left.
        wire: where the result goes in the codec of the next round's model.
        largest: the largest magnitude that stays finite; None where every value is.
        trained: whether an optimiser steps it (`is_trained`); all else is averaged.
        parties: sites that took part in the round, whether or not their update is here.
        bases: the exact model that each site began with, in the order of `sources`; none: all with the round's own.
    """

    name: str
    sources: Sequence[tuple[float, Tensor]]
    differences: bool
    model: Tensor | None
    sent_in: Codec
    out: NDArray[Any]
    before: Mapping[str, Kept]
    after: Mapping[str, Kept]
    wire: Tensor | None
    largest: float | None
    trained: bool = True
    parties: int = 0
    bases: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Elements `start` to `stop` of a tensor. Arrays that its methods give are valid until the next block, and may be
    written to where they are said to be."""

    target: Target
    start: int
    stop: int
    scratch: Scratch

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start

    def spare(self, name: str) -> Values:
        """A block of one's own to write to, by name; what lies in it is of no meaning."""
        whole: Values = self.scratch.more(name)
        return whole[: self.size]

    def model(self) -> NDArray[Any]:
        """The round's own exact model; not to be written. ValueError where it was not given."""
        if self.target.model is None:
            raise ValueError("the strategy needs the model that the round began with")
        return self.target.model.read_block(self.start, self.stop, self.scratch.decoded)  # exact: nothing is decoded

    def received(self) -> NDArray[Any]:
        """The model as the sites received it: rounded as its codec rounds; not to be written."""
        return self._as_sent(self.model())

    def received_by(self, place: int) -> NDArray[Any]:
        """The same of the model that one site began with, by its place in `sent`; valid until the next one is asked
        for."""
        if not self.target.bases:
            return self.received()
        return self._as_sent(self.target.bases[place].read_block(self.start, self.stop, self.scratch.decoded))

    def _as_sent(self, exact: NDArray[Any]) -> NDArray[Any]:
        codec = self.target.sent_in
        dtype = exact.dtype.name
        if not codec.rewrites(dtype):
            return exact
        wire = self.scratch.more("received-wire", np.float32).view(np.uint8)[: codec.nbytes(dtype, self.size)]
        out: NDArray[np.float32] = self.scratch.more("received", np.float32)[: self.size]
        codec.encode(np.ascontiguousarray(exact), wire, None)
        codec.decode(wire, out)
        return out

    def sent(self) -> Iterator[tuple[float, NDArray[Any]]]:
        """(share, what the site sent) in the order of the sites' names: weights, or differences where
        `target.differences`. Each is valid until the next one is asked for, and not to be written."""
        for share, tensor in self.target.sources:
            yield share, tensor.read_block(self.start, self.stop, self.scratch.decoded)

    def rows(self) -> Values:
        """What the sites sent, one row a site, in float64: memory grows with the sites, so `Strategy.block_elements`
        is to shrink with them. May be written."""
        rows = np.empty((len(self.target.sources), self.size))
        for row, (_share, values) in zip(rows, self.sent(), strict=True):
            row[:] = values
        return rows

    def changes(self) -> Values:
        """What training changed, one row a site: as `rows`, from the model that the sites received."""
        rows = self.rows()
        if not self.target.differences:
            np.subtract(rows, self.received(), out=rows)
        return rows

    def mean(self) -> Values:
        """The weighted mean of the sites' weights; differences are added to the round's model. May be written."""
        total = self._sum(None)
        if self.target.differences:
            np.add(total, self.model(), out=total)
        return total

    def change(self) -> Values:
        """The weighted mean of what training changed, from the model that each site received. May be written."""
        return self._sum(None if self.target.differences else self.received(), own=bool(self.target.bases))

    def moved(self, by: float = 1.0) -> Values:
        """The round's model, moved by the sites' shares of what they changed, times `by`. May be written."""
        change = self.change()
        if by != 1.0:
            np.multiply(change, by, out=change)
        np.add(change, self.model(), out=change)
        return change

    def _sum(self, base: NDArray[Any] | None, *, own: bool = False) -> Values:
        total, term = self.scratch.total[: self.size], self.scratch.term[: self.size]
        for number, (share, values) in enumerate(self.sent()):
            product = term if number else total
            np.copyto(product, values)
            if base is not None:
                np.subtract(product, self.received_by(number) if own else base, out=product)
            np.multiply(product, share, out=product)
            if number:
                np.add(total, term, out=total)
        return total


def add_up(values: Values) -> Values:
    """The sum along the last axis, which is written over, by halves: unlike `numpy.sum`, whose order of additions is an
    inner matter, this order stands here, and each addition has one right result."""
    size = values.shape[-1]
    if size == 0:
        return np.zeros(values.shape[:-1])
    while size > 1:
        half = size // 2
        np.add(values[..., :half], values[..., size - half : size], out=values[..., :half])
        size -= half
    return values[..., 0]
