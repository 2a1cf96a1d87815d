"""Where a service's time goes: calls, wall seconds, CPU seconds and bytes of a fixed list of phases.

    with PHASES.timed("publish", bytes=len(chunk)):
        ...
    PHASES.add("hash", seconds, bytes=n)

Cheap enough for hot paths (about a microsecond, no allocation that stays) and always on; what it adds up is read by
benchmarks (`take_snapshot`) and, where an operator has switched it on, by the endpoint (`operating.exposition`).

A phase inside another one is counted in both: the sums are not shares of one whole.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, thread_time
from types import TracebackType
from typing import Final, Literal, get_args

Phase = Literal["publish", "receive", "hash", "spool", "verify", "aggregate", "digest", "train", "encode", "decode"]
"""publish, receive: to and from the broker; their CPU is the I/O threads', events' share included. hash: digests of
chunks. spool: writing to and reading from disk. verify: an update's numbers. aggregate: averaging. digest: naming a
model. train: asking the trainer for a round. encode, decode: tensors ↔ what travels."""

NAMES: Final[tuple[Phase, ...]] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a phase took so far. `cpu_seconds`: of the threads that were timed, kernel's work included."""

    count: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0

    def __sub__(self, before: Spent) -> Spent:
        return Spent(
            self.count - before.count,
            self.seconds - before.seconds,
            self.cpu_seconds - before.cpu_seconds,
            self.bytes - before.bytes,
        )


class Timing:
    """One stretch of a phase, between `__enter__` and `__exit__` on one thread; counted when it raises, too."""

    __slots__ = ("_cpu", "_lock", "_sums", "_wall", "bytes")

    def __init__(self, sums: list[float], lock: threading.Lock, count: int) -> None:
        self._sums, self._lock, self.bytes = sums, lock, count

    def __enter__(self) -> Timing:
        self._cpu = thread_time()
        self._wall = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # `Phases.add_stretch` written out: a call less on the hot path.
        seconds = perf_counter() - self._wall
        cpu = thread_time() - self._cpu
        with self._lock:
            sums = self._sums
            sums[0] += 1
            sums[1] += seconds
            sums[2] += cpu
            sums[3] += self.bytes


class Phases:
    """Sums by phase; every method from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[Phase, list[float]] = {name: [0, 0.0, 0.0, 0] for name in NAMES}

    def time_phase(self, phase: Phase, *, bytes: int = 0) -> Timing:
        """A context manager that adds what its block takes; `as timing` and `timing.bytes = n` where the number of
        bytes shows only within."""
        return Timing(self._sums[phase], self._lock, bytes)

    def add_stretch(self, phase: Phase, seconds: float, *, cpu: float = 0.0, bytes: int = 0) -> None:
        """Add one stretch that was timed elsewhere; KeyError for a phase that is not in the list."""
        sums = self._sums[phase]
        with self._lock:
            sums[0] += 1
            sums[1] += seconds
            sums[2] += cpu
            sums[3] += bytes

    def take_snapshot(self) -> dict[Phase, Spent]:
        """Every phase, those that never ran included; a difference of two (`spent_since`) tells what was between."""
        with self._lock:
            rows = {name: tuple(sums) for name, sums in self._sums.items()}
        return {name: Spent(int(row[0]), row[1], row[2], int(row[3])) for name, row in rows.items()}

    def spent_since(self, before: Mapping[Phase, Spent]) -> dict[Phase, Spent]:
        """What was spent after an earlier snapshot."""
        return {name: spent - before[name] for name, spent in self.take_snapshot().items()}


PHASES: Final = Phases()
"""This process's sums."""
