"""Inputs of one kind are damaged and tried in batches, in a process of their own; a fault is told of one input.

A kind is a module of `tests.fuzz.kinds` with a row `KIND`. Input number n of a seed is always the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import psutil

from messages.ground.kernel import die_with_parent
from tests.fuzz import kinds

CORPUS = Path(__file__).parent / "corpus"
PATIENCE = 1800.0
"""Seconds until a batch that says nothing counts as one that hangs, on a machine however busy."""
WORK = 60.0
"""Seconds of a processor after which it does."""


class Lost(AssertionError):
    """Something beside the damaged input was lost."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        damage: an input, damaged; pure by the generator it is given.
        attempt: tries damaged inputs side by side in an empty folder, among whole ones; an outcome's word and how
            often. Raises `Lost` where a whole one is lost, and anything else where the code under test has a defect.
        batch: inputs tried together.
        seconds: of a processor, that one input may take, and `slack` that a batch may take beside; ten inputs of a
            batch share one's, so that a batch in which one takes long is looked into.
        memory: bytes by which one batch may let the process grow.
        alone: whether an input that ends its process is contained where it is tried with processes of its own.
    """

    name: str
    damage: Callable[[random.Random], bytes]
    attempt: Callable[[Path, Sequence[bytes]], Counter[str]]
    batch: int = 50
    seconds: float = 1.0
    slack: float = 1.0
    memory: int = 768 * 2**20
    alone: Callable[[Path, Sequence[bytes]], Counter[str]] | None = None

    def damaged_input(self, seed: int, number: int) -> bytes:
        """Input `number` of a seed."""
        return self.damage(random.Random(f"{self.name} {seed} {number}"))

    def kept_inputs(self) -> list[tuple[str, bytes]]:
        """Inputs that once showed a fault, by their names."""
        return [(path.name, path.read_bytes()) for path in sorted((CORPUS / self.name).glob("*"))]


def find_kinds() -> dict[str, Kind]:
    """Every kind, by name."""
    modules = (importlib.import_module(f"{kinds.__name__}.{one.name}") for one in pkgutil.iter_modules(kinds.__path__))
    return {module.KIND.name: module.KIND for module in modules}


@dataclass
class Figures:
    """What a run saw. `faults`: (the input's number or name, what it did)."""

    tried: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    grown: int = 0
    died: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def add_batch(self, batch: Figures) -> None:
        """Add a batch's figures to a run's."""
        self.tried += batch.tried
        self.seconds += batch.seconds
        self.slowest = max(self.slowest, batch.slowest)
        self.grown = max(self.grown, batch.grown)
        self.died += batch.died
        self.outcomes.update(batch.outcomes)
        self.faults += batch.faults


Named = Sequence[tuple[str, bytes]]


class Runner:
    """Tries inputs of one kind in a process that is started anew where one ends it. A context manager."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def try_numbers(self, seed: int, first: int, count: int) -> Iterator[Figures]:
        """Inputs `first` to `first + count` of a seed, a batch at a time."""
        for start in range(first, first + count, self._kind.batch):
            numbers = range(start, min(start + self._kind.batch, first + count))
            yield self.try_inputs([(str(n), self._kind.damaged_input(seed, n)) for n in numbers])

    def try_inputs(self, inputs: Named, alone: bool = False) -> Figures:
        """Try a batch; where it shows a fault, its halves, until one input is left that shows it."""
        seen = self._try_once(inputs, alone)
        if not isinstance(seen, str):
            return seen
        if seen.startswith(GREW):
            self._end_process()  # its peak would hide the next one's
        if len(inputs) > 1:
            found = Figures()
            for part in (inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]):
                found.add_batch(self.try_inputs(part))
            if not found.faults and not found.died:
                found.faults.append((f"{inputs[0][0]} to {inputs[-1][0]}", f"together alone: {seen}"))
            return found
        if seen.startswith(DIED) and self._kind.alone is not None and not alone:
            contained = self.try_inputs(inputs, alone=True)
            contained.died += 1
            return contained
        return Figures(tried=1, faults=[(inputs[0][0], seen)])

    def _try_once(self, inputs: Named, alone: bool) -> Figures | str:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            self._pool.submit(_load_kind, self._kind.name, os.getpid()).result()  # its start is not its work
        began, worked = time.monotonic(), self._worked()
        future = self._pool.submit(_try_batch, self._kind.name, inputs, alone)
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if time.monotonic() - began > PATIENCE or self._worked() - worked > WORK:
                    self._end_process()
                    return "hangs"
            except BrokenProcessPool:
                self._end_process()
                return DIED

    def _worked(self) -> float:
        """Seconds of a processor that the process has had."""
        total = 0.0
        for process in list((self._pool._processes or {}).values()) if self._pool is not None else ():
            with contextlib.suppress(psutil.Error):
                spent = psutil.Process(process.pid).cpu_times()
                total += spent.user + spent.system
        return total

    def _end_process(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            # Not waited for: what was killed may have held a lock of the queues.
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


GREW = "grew by"
DIED = "ended its process"
_FAST = Path("/dev/shm")
"""A folder in memory: how long a disk takes to sync is not what is measured."""


def _load_kind(name: str, parent: int) -> bool:
    """In the process: import what the kind needs; and end with the one that started it."""
    return die_with_parent(parent) and name in find_kinds()


def try_batch(name: str, inputs: Named, alone: bool) -> Figures | str:
    """In the process: a batch's figures, or what it did wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kind = _kinds.get(name) or _kinds.setdefault(name, find_kinds()[name])
    attempt = kind.alone if alone and kind.alone is not None else kind.attempt
    _forget_peak()
    before, began = _peak(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_FAST if _FAST.is_dir() else None) as folder:
        try:
            outcomes = attempt(Path(folder), [content for _, content in inputs])
        except Lost as error:
            return f"lost: {error}"
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}"[:300]
    # This process's own work: on a machine that is busy with other things, time alone says nothing.
    took, grown = time.process_time() - began, _peak() - before
    if grown > kind.memory:
        return f"{GREW} {grown / 2**20:.0f} MiB"
    if took > kind.slack + kind.seconds * max(1.0, len(inputs) / 10):
        return f"took {took:.1f} s"
    return Figures(len(inputs), took, took / len(inputs), grown, 0, outcomes)


_kinds: dict[str, Kind] = {}
_try_batch = try_batch


def _peak() -> int:
    """The most bytes that this process has had in memory since `_forget_peak` (proc(5): VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
