"""How far updates move the model, and whether they point one way: measured block by block, never decided here.

What is found goes into the journal as an input (`UpdateStored`, `Aggregated`). Replay reads it there: so these figures
need not be the same to the bit on every machine. No BLAS: its threads would take the cores of all other work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.work.strategies.base import BLOCK, STATISTICS, Strategy, is_trained
from coordinator.work.strategies.block import Block, Scratch, Target
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, TensorSpec, each_tensor

Buffer = NDArray[np.uint8]
MOST_HELD = 2**22
"""Numbers of all updates together that are held at once (32 MiB)."""
LEAST_NORM = 1e-150
"""Below it a direction is nothing but rounding."""
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
    sent_in, difference = CODECS[CODECS[codec].model], np.empty(BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told
        for spec, block in _each_block(manifest, [update], model, codec, BLOCK):
            change, values = difference[: block.size], next(block.sent())[1]
            if block.target.differences:
                np.copyto(change, values)
                made = change + block.model()
            else:
                made = values
                np.subtract(values, block.received(), out=change, dtype=np.float64)
            trained, bound = is_trained(spec), sent_in.largest(spec.dtype)
            if not (-bound <= made.min() and made.max() <= bound):  # a comparison with NaN is false
                return None
            if trained and strategy.most_change < math.inf and np.abs(change).max() > strategy.most_change:
                return None
            squares[trained] += float(np.multiply(change, change, out=change).sum())
    if not all(math.isfinite(one) for one in squares.values()):
        return None
    measured = any(spec.name.rpartition(".")[2] in STATISTICS for spec in manifest.tensors)
    return Length(math.sqrt(squares[True]), math.sqrt(squares[False]) if measured else None)


def compare_directions(
    manifest: Manifest, updates: Mapping[str, tuple[float, Buffer]], model: Buffer, codec: CodecName
) -> dict[str, float]:
    """The cosine of each update and the mean of the others' directions, each of length one.

    Directions and no weights: so neither a long update nor a large claim of cases bends what the others are compared
    with. A pass over all updates; memory is `MOST_HELD`, or one number of each.

    Args:
        updates: site → norm, as `measure_update` found it, and buffer in `codec`.

    Returns:
        Site → from -1 to 1. Who has not moved the model is left out, and all are where there is nobody else.
    """
    moved = {site: one for site, one in sorted(updates.items()) if LEAST_NORM < one[0] < math.inf}
    if len(moved) < 2:
        return {}
    norms = np.array([norm for norm, _buffer in moved.values()])
    buffers = [buffer for _norm, buffer in moved.values()]
    most = max(1, min(BLOCK, MOST_HELD // len(moved)))
    rows, along, whole = np.empty((len(moved), most)), np.zeros(len(moved)), 0.0
    for spec, block in _each_block(manifest, buffers, model, codec, most):
        if not is_trained(spec):
            continue
        here = rows[:, : block.size]
        base = None if block.target.differences else block.received().astype(np.float64)
        for row, norm, (_share, values) in zip(here, norms, block.sent(), strict=True):
            np.copyto(row, values)
            if base is not None:
                np.subtract(row, base, out=row)
            np.divide(row, norm, out=row)
        total = here.sum(axis=0)
        for number, row in enumerate(here):
            along[number] += float(np.multiply(row, total, out=row).sum())
        whole += float(np.multiply(total, total, out=total).sum())
    others = np.sqrt(np.maximum(whole - 2 * along + 1.0, 0.0))
    return {
        site: max(-1.0, min(1.0, float((a - 1.0) / length)))
        for site, a, length in zip(moved, along, others, strict=True)
        if length > ROUNDED
    }


def _each_block(
    manifest: Manifest, updates: Sequence[Buffer], model: Buffer, codec: CodecName, most: int
) -> Iterator[tuple[TensorSpec, Block]]:
    """Every block of every floating-point tensor, with its place in all updates."""
    written, scratch = CODECS[codec], Scratch(most)
    sources = [each_tensor(manifest.in_codec(codec), buffer) for buffer in updates]
    for spec, base in zip(manifest.tensors, each_tensor(manifest, model), strict=True):
        tensors = [(1.0, next(source)) for source in sources]
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
        )
        for start in range(0, base.size, most):
            yield spec, Block(target, start, min(start + most, base.size), scratch)
