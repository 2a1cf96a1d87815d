"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", algorithm 1): the weighted mean of the sites' weights, bit by bit the same for the same updates. Differences are
averaged likewise and added to the model that they are differences from, in float64, before the one rounding.

Sites are taken in the order of their names; each block is multiplied and then added in float64, one after the other,
so neither the order of arrival nor the number of threads can show in the result. Updates are mapped files, decoded by
block: memory is some blocks a thread, whatever the number of sites. While a block is in the cache it is also checked
for numbers that are not finite and written in the codec in which the next round sends it.
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

from messages.tensors.codecs import CODECS, CodecName, Tensor
from messages.tensors.layout import Manifest, each_tensor, tensors_of, views

Buffer = NDArray[np.uint8]
BLOCK = 2**18
"""Elements at a time. Smaller blocks fit a nearer cache, but then two threads wait for the interpreter's lock more than
they work (`python -m benchmarks.aggregation`)."""


def weights(cases: Mapping[str, int], *, weight_by: str = "cases_used", cap: float = 1.0) -> dict[str, float]:
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


@dataclass(frozen=True, slots=True)
class _Target:
    """One tensor of the result, with everything that goes into it."""

    sources: Sequence[tuple[float, Tensor]]
    master: Tensor | None
    out: NDArray[Any]
    wire: Tensor | None
    largest: float | None
    """The largest magnitude that stays finite; None where every value is."""


class _Scratch:
    """What one thread works in: 5 MiB at most."""

    def __init__(self, most: int) -> None:
        self.total = np.empty(most, dtype=np.float64)
        self.term = np.empty(most, dtype=np.float64)
        self.decoded = np.empty(most, dtype=np.float32)


def aggregate(
    manifest: Manifest,
    updates: Sequence[tuple[float, Buffer]],
    out: Buffer,
    *,
    codec: CodecName = "float32",
    master: Buffer | None = None,
    wire: Buffer | None = None,
    threads: int | None = None,
) -> bool:
    """Write the next model to `out`: the weighted mean of the updates, or `master` plus that of the differences.

    Args:
        manifest: names, shapes and dtypes that all share; float32 (exact), as `out` and `master` are.
        updates: (weight, buffer in `codec`), in the order of the sites' names.
        out: buffer of manifest.nbytes bytes; each tensor keeps its dtype. Integer tensors (batch norm's counters)
            are rounded half to even, booleans are true where the mean is above one half.
        codec: of the updates.
        master: the model that the round's sites received a copy of; needed where `codec` sends differences.
        wire: where to write the result in the codec in which a round's model travels; None: nowhere.
        threads: blocks are independent, so their number changes no bit; default: up to 4.

    Returns:
        Whether every number is finite, in `out` and, where it is asked for, in `wire`.

    Raises:
        ValueError: a buffer is too small, or `master` is missing.
    """
    jobs = iter(_jobs(manifest, updates, out, codec, master, wire))
    workers = threads if threads is not None else min(4, os.cpu_count() or 1)
    lock = threading.Lock()
    most = min(BLOCK, max((spec.size for spec in manifest.tensors), default=0))

    def work() -> bool:
        scratch, finite = _Scratch(most), True
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return finite
            finite &= _average(*job, scratch)

    if workers <= 1:
        return work()
    with ThreadPoolExecutor(workers, thread_name_prefix="aggregate") as pool:
        return all(list(pool.map(lambda _number: work(), range(workers))))


def _jobs(
    manifest: Manifest,
    updates: Sequence[tuple[float, Buffer]],
    out: Buffer,
    codec: CodecName,
    master: Buffer | None,
    wire: Buffer | None,
) -> Iterator[tuple[_Target, int, int]]:
    """(tensor, first element, end) of every block."""
    written = CODECS[codec]
    sent = manifest.in_codec(codec)
    # Side by side through all updates, tensor by tensor: memory is a site's place in its file, not all its tensors.
    sources = [(weight, each_tensor(sent, buffer)) for weight, buffer in updates]
    masters = None if master is None else tensors_of(manifest, master)
    wires = None if wire is None else tensors_of(manifest.in_codec(written.model), wire)
    for name, array in views(manifest, out).items():
        base = None
        if written.difference and written.rewrites(array.dtype.name):
            if masters is None:
                raise ValueError("differences need the model that they are differences from")
            base = masters[name]
        largest = None
        if array.dtype.kind == "f":
            sent_in = CODECS["float32" if wires is None else written.model]
            largest = sent_in.largest(array.dtype.name)
        target = _Target(
            sources=[(weight, next(tensors)) for weight, tensors in sources],
            master=base,
            out=array.reshape(-1),
            wire=None if wires is None else wires[name],
            largest=largest,
        )
        for start in range(0, array.size, BLOCK):
            yield target, start, min(start + BLOCK, array.size)


def _average(target: _Target, start: int, stop: int, scratch: _Scratch) -> bool:
    total, term = scratch.total[: stop - start], scratch.term[: stop - start]
    # Two operations, never one fused multiply-add: that rounds once instead of twice, on some processors only.
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told below
        for number, (weight, tensor) in enumerate(target.sources):
            product = term if number else total
            np.copyto(product, tensor.block(start, stop, scratch.decoded))
            np.multiply(product, weight, out=product)
            if number:
                np.add(total, term, out=total)
        if target.master is not None:
            np.add(total, target.master.block(start, stop, scratch.decoded), out=total)
        out = target.out[start:stop]
        _cast(total, out)
    if target.wire is not None:
        _encode(out, target.wire, start, stop)
    if target.largest is None:
        return True
    # A comparison with NaN is false.
    return bool(-target.largest <= out.min() and out.max() <= target.largest)


def _cast(total: NDArray[np.float64], out: NDArray[Any]) -> None:
    if out.dtype.kind == "b":
        np.greater(total, 0.5, out=out)
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        out[...] = np.clip(np.rint(total), limits.min, limits.max).astype(out.dtype)
    else:
        np.copyto(out, total, casting="unsafe")


def _encode(out: NDArray[Any], tensor: Tensor, start: int, stop: int) -> None:
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
            block = tensor.block(start, min(start + BLOCK, tensor.size), scratch)
            if not np.isfinite(block).all():
                return False
    return True
