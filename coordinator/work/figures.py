"""How far updates move the model, and whether they point one way: measured block by block, never decided here.

What is found goes into the journal as an input (`UpdateStored`, `Aggregated`). Replay reads it there: so these figures
need not be the same to the bit on every machine. No BLAS: its threads would take the cores of all other work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.work.strategies.base import BLOCK, Strategy
from coordinator.work.strategies.block import Block, Scratch, Target
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, TensorSpec, each_tensor
from messages.tensors.travelling import STATISTICS, is_beside, is_trained

Buffer = NDArray[np.uint8]
MOST_HELD = 2**22
"""Numbers of all updates together that are held at once (32 MiB)."""
MOST_COMPARED = 2**18
"""Numbers of an update whose direction is compared: of a larger one every so many runs are looked at."""
RUN = 2**14
"""Numbers in a run."""
ROW = 2**10
"""Squares that are added up in float32, before the sums are added in float64."""
LEAST_NORM = 1e-150
"""Below it a direction is nothing but rounding."""
LEAST_SQUARES = 1e-30
"""Below it a sum of float32 squares may have lost what is too small for them."""
ROUNDED = 1e-6
"""A sum of directions of length one that is no longer may be nothing but rounding."""
_NOWHERE = np.empty(0)


@dataclass(frozen=True, slots=True)
class Length:
    """How far one update moves the model: Euclidean length of what training changed.

    Attributes:
        norm: over all trained numbers; None where there is no model to hold it against.
        statistics: over measured statistics (batch normalisation); None where the net has none.
    """

    norm: float | None
    statistics: float | None


def measure_update(
    manifest: Manifest, update: Buffer, model: Buffer, codec: CodecName, strategy: Strategy
) -> Length | None:
    """Measure an update alone, and whether anything can be made of it. O(block) of memory.

    Args:
        manifest: of the model, exact; `model`: the round's own, in it.
        update: in `codec`.
        strategy: what the round's updates are combined by; it does not bear every change (`Strategy.most_change`).

    Returns:
        None where it holds NaN or infinity, or where the model that it makes alone is beyond what the next round can
        send. A mean of updates of which none is so is not so either: it lies between them.
    """
    squares = {True: 0.0, False: 0.0}
    sent_in, difference = CODECS[CODECS[codec].model], np.empty(BLOCK, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told
        for spec, block in _each_block(manifest, [update], model, codec, BLOCK):
            change, values = difference[: block.size], next(block.sent())[1]
            if block.target.differences:
                np.copyto(change, values)
                made = change + block.model()
            else:
                made = values
                np.subtract(values, block.received(), out=change)
            trained, moved = is_trained(spec), _sum_squares(change)
            # What is a finite way from a finite model is finite itself: most updates need no second look.
            told_by_length = moved < math.inf and made is values and not sent_in.rewrites(spec.dtype)
            if not (told_by_length or _is_within(made, sent_in.largest(spec.dtype))):
                return None
            if trained and strategy.most_change < math.inf and np.abs(change).max() > strategy.most_change:
                return None
            if not is_beside(spec.name):
                squares[trained] += moved
    if not all(math.isfinite(one) for one in squares.values()):
        return None
    measured = any(spec.name.rpartition(".")[2] in STATISTICS for spec in manifest.tensors)
    return Length(math.sqrt(squares[True]), math.sqrt(squares[False]) if measured else None)


def _is_within(values: NDArray[Any], bound: float) -> bool:
    return bool(-bound <= values.min() and values.max() <= bound)  # a comparison with NaN is false


def _sum_squares(change: NDArray[np.float32]) -> float:
    """In float32 by rows, which is thrice as fast; in float64 where that cannot hold a square.

    NumPy's `einsum` of two vectors calls no BLAS.
    """
    rows = change[: change.size - change.size % ROW].reshape(-1, ROW)
    rest = change[rows.size :]
    with np.errstate(over="ignore", under="ignore"):
        total = float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64)) + float(np.einsum("i,i->", rest, rest))
    if LEAST_SQUARES < total < math.inf or not change.any():
        return total
    exact = change.astype(np.float64)
    return float(np.multiply(exact, exact, out=exact).sum())


def compare_directions(
    manifest: Manifest,
    updates: Mapping[str, tuple[float, Buffer]],
    model: Buffer,
    codec: CodecName,
    *,
    pick: int = 0,
    bases: Mapping[str, Buffer] = MappingProxyType({}),
) -> dict[str, float]:
    """The cosine of each update and the mean of the others' directions, each of length one.

    Directions and no weights: so neither a long update nor a large claim of cases bends what the others are compared
    with. Updates of more than `MOST_COMPARED` numbers are compared on a sample of them, so that it costs no more for a
    large net. Memory is `MOST_HELD`, or one number of each.

    Args:
        updates: site → norm, as `measure_update` found it, and buffer in `codec`.
        bases: site → the exact model that it began with; none: all with `model`.
        pick: which sample. Derived from what nobody knows before all updates are here, so that nobody can keep out.

    Returns:
        Site → from -1 to 1. Who has not moved the model is left out, and all are where there is nobody else.
    """
    moved = {site: one for site, one in sorted(updates.items()) if LEAST_NORM < one[0] < math.inf}
    if len(moved) < 2:
        return {}
    norms = np.array([norm for norm, _buffer in moved.values()])
    buffers = [buffer for _norm, buffer in moved.values()]
    most = max(1, min(RUN, MOST_HELD // len(moved)))
    rows, along, own, whole = np.empty((len(moved), most)), np.zeros(len(moved)), np.zeros(len(moved)), 0.0
    trained = sum(-(-spec.size // most) for spec in manifest.tensors if is_trained(spec))
    every = max(1, trained * most // MOST_COMPARED)
    began = [bases[site] for site in moved] if bases else []
    for number, block in enumerate(_each_trained(manifest, buffers, model, codec, most, began)):
        if (number + pick) % every:
            continue
        here = rows[:, : block.size]
        base = None if block.target.differences else block.received().astype(np.float64)
        for place, (row, norm, (_share, values)) in enumerate(zip(here, norms, block.sent(), strict=True)):
            np.copyto(row, values)
            if base is not None:
                np.subtract(row, block.received_by(place) if began else base, out=row)
            np.divide(row, norm, out=row)
        total = here.sum(axis=0)
        for place, row in enumerate(here):
            own[place] += float(np.square(row).sum())
            along[place] += float(np.multiply(row, total, out=row).sum())
        whole += float(np.multiply(total, total, out=total).sum())
    others, lengths = np.sqrt(np.maximum(whole - 2 * along + own, 0.0)), np.sqrt(own)
    return {
        site: max(-1.0, min(1.0, float((along[place] - own[place]) / (lengths[place] * others[place]))))
        for place, site in enumerate(moved)
        if others[place] > ROUNDED and lengths[place] > ROUNDED
    }


def _each_trained(
    manifest: Manifest,
    updates: Sequence[Buffer],
    model: Buffer,
    codec: CodecName,
    most: int,
    bases: Sequence[Buffer] = (),
) -> Iterator[Block]:
    for spec, block in _each_block(manifest, updates, model, codec, most, bases):
        if is_trained(spec):
            yield block


def _each_block(
    manifest: Manifest,
    updates: Sequence[Buffer],
    model: Buffer,
    codec: CodecName,
    most: int,
    bases: Sequence[Buffer] = (),
) -> Iterator[tuple[TensorSpec, Block]]:
    """Every block of every floating-point tensor, with its place in all updates."""
    written, scratch = CODECS[codec], Scratch(most)
    sources = [each_tensor(manifest.in_codec(codec), buffer) for buffer in updates]
    began = [each_tensor(manifest, buffer) for buffer in bases]
    for spec, base in zip(manifest.tensors, each_tensor(manifest, model), strict=True):
        tensors, own = [(1.0, next(source)) for source in sources], [next(source) for source in began]
        if base.dtype.kind != "f":
            continue
        differences = written.difference and written.rewrites(spec.dtype)
        target = Target(
            name=spec.name,
            sources=tensors,
            differences=differences,
            model=base,
            sent_in=CODECS[written.model],
            out=_NOWHERE,
            before={},
            after={},
            wire=None,
            largest=None,
            bases=own,
        )
        size = base.size
        for start in range(0, size, most):
            yield spec, Block(target, start, min(start + most, size), scratch)
