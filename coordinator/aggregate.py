"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", algorithm 1): the weighted mean of the sites' weights, bit by bit the same for the same updates.

Sites are taken in the order of their names; each block is multiplied and then added in float64, one after the other,
so neither the order of arrival nor the number of threads can show in the result. Updates are mapped files: memory is
one block a thread, whatever the number of sites.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.tensors import Manifest, views

BLOCK = 2**17
"""Elements at a time: two float64 blocks (2 MiB) stay in a core's cache."""


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


def aggregate(
    manifest: Manifest,
    updates: Sequence[tuple[float, NDArray[np.uint8]]],
    out: NDArray[np.uint8],
    *,
    threads: int | None = None,
) -> None:
    """Write the weighted mean of the updates to `out`.

    Args:
        manifest: names, shapes and dtypes that all updates share.
        updates: (weight, buffer of manifest.nbytes bytes), in the order of the sites' names.
        out: buffer of manifest.nbytes bytes; each tensor keeps its dtype. Integer tensors (batch norm's counters)
            are rounded half to even, booleans are true where the mean is above one half.
        threads: blocks are independent, so their number changes no bit; default: up to 4.
    """
    sources = [(weight, views(manifest, buffer)) for weight, buffer in updates]
    targets = views(manifest, out)
    jobs = [(name, start) for name, target in targets.items() for start in range(0, target.size, BLOCK)]
    workers = threads if threads is not None else min(4, os.cpu_count() or 1)

    def run(job: tuple[str, int]) -> None:
        name, start = job
        blocks = [(weight, arrays[name].reshape(-1)[start : start + BLOCK]) for weight, arrays in sources]
        _average(blocks, targets[name].reshape(-1)[start : start + BLOCK])

    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            run(job)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="aggregate") as pool:
        for _done in pool.map(run, jobs):
            pass


def _average(blocks: Sequence[tuple[float, NDArray[Any]]], out: NDArray[Any]) -> None:
    total = np.zeros(out.shape, dtype=np.float64)
    term = np.empty(out.shape, dtype=np.float64)
    # Two operations, never one fused multiply-add: that rounds once instead of twice, on some processors only.
    for weight, block in blocks:
        np.multiply(block, weight, out=term, dtype=np.float64)
        np.add(total, term, out=total)
    if out.dtype.kind == "b":
        out[...] = total > 0.5
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        out[...] = np.clip(np.rint(total), limits.min, limits.max).astype(out.dtype)
    else:
        out[...] = total.astype(out.dtype)


def is_finite(manifest: Manifest, buffer: NDArray[np.uint8]) -> bool:
    """Whether no tensor holds NaN or infinity; block by block."""
    return all(bool(np.isfinite(block).all()) for block in _float_blocks(manifest, buffer))


def _float_blocks(manifest: Manifest, buffer: NDArray[np.uint8]) -> Iterator[NDArray[Any]]:
    for array in views(manifest, buffer).values():
        if array.dtype.kind == "f":
            flat = array.reshape(-1)
            for start in range(0, flat.size, BLOCK):
                yield flat[start : start + BLOCK]
