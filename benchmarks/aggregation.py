"""`python -m benchmarks.aggregation`: GB/s of float32 that the codecs encode and decode, and that averaging takes in.

Everything lies in memory, 20 tensors, so that neither disk nor broker counts; the best of so many laps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.work.aggregate import aggregate
from messages.tensors.codecs import CODECS
from messages.tensors.layout import Manifest, manifest_of, tensors_of, write_into

TENSORS = 20


def best(laps: int, work: Callable[[], Any]) -> float:
    """Seconds of the fastest lap."""
    taken = []
    for _ in range(laps):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def measure(megabytes: int, sites: int, threads: tuple[int, ...], laps: int) -> list[dict[str, Any]]:
    """One row a codec."""
    rng = np.random.default_rng(1)
    size = megabytes * 10**6 // 4 // TENSORS
    arrays = {f"w{number}": rng.standard_normal(size, dtype=np.float32) for number in range(TENSORS)}
    exact = manifest_of(arrays)

    def buffer(manifest: Manifest) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.zeros(manifest.nbytes, dtype=np.uint8)

    master, out, target = buffer(exact), buffer(exact), np.empty(size, dtype=np.float32)
    write_into(arrays, exact, master.data)
    rows = []
    for name, codec in CODECS.items():
        update, sent = exact.in_codec(name), exact.in_codec(codec.model)
        wire, copy, received = buffer(update), buffer(sent), tensors_of(exact, master)
        encode = best(laps, lambda: write_into(arrays, update, wire.data, received))  # noqa: B023 (called at once)
        tensors = tensors_of(update, wire).values()

        def read() -> None:
            for one in tensors:  # noqa: B023 (called at once)
                one.read_into(target)

        decode = best(laps, read)
        row: dict[str, Any] = {
            "codec": name,
            "encode": round(exact.nbytes / encode / 1e9, 2),
            "decode": round(exact.nbytes / decode / 1e9, 2),
        }
        for count in threads:
            given = [(1 / sites, wire.copy()) for _ in range(sites)]
            more = {"wire": copy if sent.codec != "float32" else None, "master": master if codec.difference else None}
            taken = best(laps, lambda: aggregate(exact, given, out, codec=name, threads=count, **more))  # noqa: B023
            row[f"aggregate, {count} threads"] = round(sites * exact.nbytes / taken / 1e9, 2)
            row[f"seconds, {count} threads"] = round(taken, 3)
        rows.append(row)
    return rows


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="benchmarks.aggregation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    threads = tuple(int(one) for one in options.threads.split(","))
    rows = measure(options.megabytes, options.sites, threads, options.laps)
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"{options.sites} × {options.megabytes} MB; GB/s of float32, before encoding and after decoding")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
