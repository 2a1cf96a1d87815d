"""The engine of every strategy: many updates → the next model, by block, bit by bit the same for the same updates.

Sites are taken in the order of their names; each block is combined in float64 by the strategy (`coordinator.work.
strategies`; federated averaging unless told otherwise) and rounded once, so neither the order of arrival nor the number
of threads can show in the result. Updates are mapped files, decoded by block: memory is some blocks a thread, whatever
the number of sites. While a block is in the cache it is also checked for numbers that are not finite and written in the
codec in which the next round sends it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.work.strategies.base import BLOCK, Shares, Steps, Strategy
from coordinator.work.strategies.block import Block, Scratch, Target, Values
from coordinator.work.strategies.fedavg import FedAvg
from messages.tensors.codecs import CODECS, CodecName, Tensor
from messages.tensors.layout import Manifest, each_tensor, tensors_of, view_tensors
from messages.tensors.travelling import is_trained

Buffer = NDArray[np.uint8]
Job = tuple[Target, int, int]
"""(tensor, first element, end) of a block."""
FEDAVG = FedAvg()


@dataclass(frozen=True, slots=True)
class Memory:
    """What a strategy keeps from round to round, laid out as its `memory` says.

    Attributes:
        before: as the last round left it; None before the first one.
        after: where this round leaves it.
    """

    before: Buffer | None
    after: Buffer


def share_weights(cases: Mapping[str, int], *, weight_by: str = "cases_used", cap: float = 1.0) -> dict[str, float]:
    """Each site's share of the mean, in the order of the sites' names; they add up to 1.

    Args:
        cases: site → training cases used.
        weight_by: "cases_used" or "equal".
        cap: no site weighs more than this, as far as that is possible (with n sites not below 1/n): what it has too
            much goes to the others in proportion.

    Raises:
        ValueError: no site, or no case at all.
    """
    sites = sorted(cases)
    raw = {site: 1.0 if weight_by == "equal" else float(cases[site]) for site in sites}
    total = sum(raw.values())
    if not sites or total <= 0:
        raise ValueError("nothing to average")
    share = {site: raw[site] / total for site in sites}
    limit = max(cap, 1.0 / len(sites))
    capped: set[str] = set()
    while over := [site for site in sites if site not in capped and share[site] > limit]:
        capped |= set(over)
        free = [site for site in sites if site not in capped]
        rest, left = sum(raw[site] for site in free), 1.0 - limit * len(capped)
        if not free or rest <= 0:
            return {site: 1.0 / len(sites) for site in sites} if not free else share
        share = {site: limit if site in capped else raw[site] / rest * left for site in sites}
    return share


def aggregate(
    manifest: Manifest,
    updates: Sequence[tuple[float, Buffer]],
    out: Buffer,
    *,
    codec: CodecName = "float32",
    master: Buffer | None = None,
    wire: Buffer | None = None,
    threads: int | None = None,
    strategy: Strategy = FEDAVG,
    memory: Memory | None = None,
    steps: Steps | None = None,
    parties: int | None = None,
    bases: Sequence[Buffer] = (),
) -> bool:
    """Write the next model to `out`: what the strategy makes of the updates.

    Args:
        manifest: names, shapes and dtypes that all share; float32 (exact), as `out` and `master` are.
        updates: (share, buffer in `codec`), in the order of the sites' names.
        out: buffer of manifest.nbytes bytes; each tensor keeps its dtype. Integer tensors (batch norm's counters)
            are rounded half to even, booleans are true where the mean is above one half.
        codec: of the updates.
        master: the model that the round's sites received a copy of; needed where `codec` sends differences, or the
            strategy starts from it.
        wire: where to write the result in the codec in which a round's model travels; None: nowhere.
        threads: blocks are independent, so their number changes no bit; default: up to 4.
        memory: of the strategy, where it keeps something.
        steps: local steps that each site took, in the order of `updates`; default: as many for each.
        parties: sites that took part in the round; default: those whose updates are here.
        bases: the exact model that each site began with, in the order of `updates`; none: all with `master`.

    Returns:
        Whether every number is finite, in `out`, in the strategy's memory and, where it is asked for, in `wire`.

    Raises:
        ValueError: a buffer is too small, or `master` or `memory` is missing.
    """
    largest = max((spec.size for spec in manifest.tensors), default=0)
    most = max(1, min(strategy.block_elements(len(updates)), largest))
    took_part = len(updates) if parties is None else parties
    given = _Given(manifest, updates, out, codec, master, wire, strategy, memory, most, took_part, bases)
    counted = strategy.shares(given.shares, given.blocks(), steps or (1,) * len(updates))
    jobs = given.jobs(counted)
    workers = threads if threads is not None else min(4, os.cpu_count() or 1)
    lock = threading.Lock()

    def work() -> bool:
        scratch, finite = Scratch(most), True
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return finite
            finite &= _combined(strategy, Block(*job, scratch))

    if workers <= 1:
        return work()
    with ThreadPoolExecutor(workers, thread_name_prefix="aggregate") as pool:
        return all(list(pool.map(lambda _number: work(), range(workers))))


@dataclass(frozen=True, slots=True)
class _Given:
    """What `aggregate` is given, cut into blocks."""

    manifest: Manifest
    updates: Sequence[tuple[float, Buffer]]
    out: Buffer
    codec: CodecName
    master: Buffer | None
    wire: Buffer | None
    strategy: Strategy
    memory: Memory | None
    most: int
    parties: int
    bases: Sequence[Buffer]

    @property
    def shares(self) -> Shares:
        """As they are given, before the strategy has looked at the updates."""
        return tuple(share for share, _buffer in self.updates)

    def blocks(self) -> Iterator[Block]:
        """Every block, one after the other, for a look at the updates."""
        scratch = Scratch(self.most)
        for job in self.jobs(self.shares):
            yield Block(*job, scratch)

    def jobs(self, shares: Shares) -> Iterator[Job]:
        """(tensor, first element, end) of every block."""
        for target in self._targets(shares):
            for start in range(0, target.out.size, self.most):
                yield target, start, min(start + self.most, target.out.size)

    def _targets(self, shares: Shares) -> Iterator[Target]:
        manifest, written = self.manifest, CODECS[self.codec]
        sent_in = CODECS[written.model]
        sent = manifest.in_codec(self.codec)
        # Side by side through all updates, tensor by tensor: memory is a site's place in its file, not all its tensors.
        sources = [each_tensor(sent, buffer) for _share, buffer in self.updates]
        began = [each_tensor(manifest, buffer) for buffer in self.bases]
        models = None if self.master is None else tensors_of(manifest, self.master)
        wires = None if self.wire is None else tensors_of(manifest.in_codec(written.model), self.wire)
        kept = _Kept(self.strategy, manifest, self.memory)
        arrays = view_tensors(manifest, self.out)
        for spec in manifest.tensors:
            differences = written.difference and written.rewrites(spec.dtype)
            if differences and models is None:
                raise ValueError("differences need the model that they are differences from")
            array, largest = arrays[spec.name], None
            if array.dtype.kind == "f":
                largest = (CODECS["float32"] if wires is None else sent_in).largest(array.dtype.name)
            trained = is_trained(spec)
            before, after = kept.next_views(spec.size) if trained else ({}, {})
            counted = shares if trained or not self.strategy.shares_trained else self.shares
            yield Target(
                name=spec.name,
                sources=[(share, next(tensors)) for share, tensors in zip(counted, sources, strict=True)],
                differences=differences,
                model=None if models is None else models[spec.name],
                sent_in=sent_in,
                out=array.reshape(-1),
                before=before,
                after=after,
                wire=None if wires is None else wires[spec.name],
                largest=largest,
                trained=trained,
                parties=self.parties,
                bases=[next(tensors) for tensors in began],
            )


Parts = Mapping[str, NDArray[np.float32]]


class _Kept:
    """The strategy's memory, cut tensor by tensor."""

    def __init__(self, strategy: Strategy, manifest: Manifest, memory: Memory | None) -> None:
        layout = strategy.memory(manifest)
        if layout is not None and memory is None:
            raise ValueError("the strategy needs its memory")
        self._place = 0
        self._before: Parts = {}
        self._after: Parts = {}
        if layout is not None and memory is not None:
            self._after = view_tensors(layout, memory.after)
            self._before = {} if memory.before is None else view_tensors(layout, memory.before)

    def next_views(self, size: int) -> tuple[Parts, Parts]:
        """By part, as it was and as it will be, for the next tensor."""
        start, self._place = self._place, self._place + size
        before, after = (
            {part: whole[start : start + size] for part, whole in parts.items()}
            for parts in (self._before, self._after)
        )
        return before, after


def _combined(strategy: Strategy, block: Block) -> bool:
    """Combine a block and round it to its place; whether all that is written is finite."""
    target, start, stop = block.target, block.start, block.stop
    out = target.out[start:stop]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told below
        _cast_block(strategy.combine(block), out)
    if target.wire is not None:
        _encode_block(out, target.wire, start, stop)
    finite = all(bool(np.isfinite(part[start:stop]).all()) for part in target.after.values())
    if target.largest is None:
        return finite
    # A comparison with NaN is false.
    return finite and bool(-target.largest <= out.min() and out.max() <= target.largest)


def _cast_block(total: Values, out: NDArray[Any]) -> None:
    if out.dtype.kind == "b":
        np.greater(total, 0.5, out=out)
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        out[...] = np.clip(np.rint(total), limits.min, limits.max).astype(out.dtype)
    else:
        np.copyto(out, total, casting="unsafe")


def _encode_block(out: NDArray[Any], tensor: Tensor, start: int, stop: int) -> None:
    item = tensor.codec.nbytes(out.dtype.name, 1)
    wire = tensor.wire[start * item : stop * item]
    if tensor.codec.rewrites(out.dtype.name):
        tensor.codec.encode(out, wire, None)
    else:
        wire.view(out.dtype)[...] = out


def is_finite(manifest: Manifest, buffer: Buffer) -> bool:
    """Whether no tensor, as it decodes, holds NaN or infinity; block by block."""
    scratch = np.empty(BLOCK, dtype=np.float32)
    for tensor in tensors_of(manifest, buffer).values():
        if tensor.dtype.kind != "f":
            continue
        for start in range(0, tensor.size, BLOCK):
            block = tensor.read_block(start, min(start + BLOCK, tensor.size), scratch)
            if not np.isfinite(block).all():
                return False
    return True
