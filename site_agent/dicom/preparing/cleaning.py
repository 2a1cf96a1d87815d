"""The door's work in processes, as many as cores: objects in, what may lie in the spool out, in the order they came.

What is not clean yet goes to them in memory alone, through pipes, a few megabytes at a time; what comes back is encoded
already, and this process writes it: there is one writer of the spool, and a kill costs no more than what is on its way.
`concurrent.futures` pickles between processes of one program; nothing from outside is unpickled. A process that an
object kills takes nothing with it: what it had is cleaned here, as it is where there is one core.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.config import Labels, Override
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import WrittenObject, write_object
from site_agent.dicom.preparing.pool import begin_worker, open_processes
from site_agent.dicom.sources.arrivals import weigh_object

BATCH_OBJECTS, BATCH_BYTES = 16, 4 * 2**20
"""Most of what goes to a process at a time: enough to be worth the way, little enough to be held a few times."""
AHEAD = 2
"""Batches that wait for each process at most."""


@dataclass(frozen=True, slots=True)
class RefusedObject:
    """An object that is left out, and nothing else with it. `name` is its source's, for the operator."""

    reason: Reason
    text: str
    name: str = field(default="", repr=False)


Cleaned = WrittenObject | RefusedObject
"""An object as it may lie in the spool, or why it may not."""


@dataclass(frozen=True)
class Rules:
    """What a door is made of, for a process to make its own."""

    secret: bytes = field(repr=False)
    labels: Labels
    overrides: tuple[Override, ...]

    def make_door(self) -> Door:
        """The door by these rules."""
        return Door(Pseudonyms(self.secret), self.labels, self.overrides)


class Cleaners:
    """Cleans objects in processes once it is `open`, in this one until then.

    `give_object` may be called by any thread, one at a time. All else is for one thread, which outlives the processes:
    they end with the thread that began them (prctl(2)), and a library's thread ends with its association.

    Args:
        rules: of the door.
    """

    def __init__(self, rules: Rules) -> None:
        self._processes, self._rules = 0, rules
        self._door = rules.make_door()
        self._executor: ProcessPoolExecutor | None = None
        self._batch: list[Object] = []
        self._bytes = 0
        self._sent: deque[tuple[Future[list[Cleaned]], list[Object]]] = deque()

    def open(self, processes: int) -> None:
        """Start so many processes, where that is more than one."""
        if processes < 2:
            return
        self._processes = processes
        self._executor = open_processes(processes, _start_worker, os.getpid(), self._rules)
        if self._executor is None:
            self._processes = 0
            return
        try:
            for _ in range(processes):  # each starts one, since none is idle yet
                self._executor.submit(_clean_batch, [])
        except BrokenProcessPool:
            self._executor = None

    def give_object(self, obj: Object) -> Iterator[Cleaned]:
        """Have an object cleaned, which is not used any more; yields what is done by now, the oldest first."""
        if self._executor is None and not self._sent and not self._batch:
            yield from clean_objects(self._door, [obj])
            return
        if getattr(obj, "buffer", None) is not None:
            obj.buffer = None  # what it was read from: all of it would go along
        self._batch.append(obj)
        self._bytes += weigh_object(obj)
        if len(self._batch) >= BATCH_OBJECTS or self._bytes >= BATCH_BYTES:
            self._send_batch()
        while len(self._sent) > AHEAD * self._processes or (self._sent and self._sent[0][0].done()):
            yield from self._next_cleaned()

    def await_rest(self) -> Iterator[Cleaned]:
        """Wait for everything that was given."""
        self._send_batch()
        while self._sent:
            yield from self._next_cleaned()
        if self._executor is None:
            self.open(self._processes)

    def forget_given(self) -> None:
        """What was given and not yielded is not wanted any more."""
        for future, _ in self._sent:
            future.cancel()
        self._sent.clear()
        self._batch, self._bytes = [], 0

    def close(self) -> None:
        """End the processes."""
        self.forget_given()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._processes = 0

    def _send_batch(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        if self._executor is not None:
            try:
                self._sent.append((self._executor.submit(_clean_batch, batch), batch))
                return
            except BrokenProcessPool:
                self._executor = None
        done: Future[list[Cleaned]] = Future()
        done.set_result(clean_objects(self._door, batch))
        self._sent.append((done, batch))

    def _next_cleaned(self) -> Iterator[Cleaned]:
        future, batch = self._sent.popleft()
        try:
            found = future.result()
        except BrokenProcessPool:
            self._executor = None  # others are started once all of this is done
            found = clean_objects(self._door, batch)
        except Exception:  # noqa: BLE001 - it did not go through a pipe: nested too deep, or odd in another way
            found = clean_objects(self._door, batch)
        yield from found


def clean_objects(door: Door, objects: Sequence[Object]) -> list[Cleaned]:
    """What the door makes of objects: whatever one of them holds, it costs none of the others."""
    return [_clean_object(door, obj) for obj in objects]


def _clean_object(door: Door, obj: Object) -> Cleaned:
    try:
        return write_object(door.admit_object(obj))
    except ObjectRefused as error:
        reason, text = error.reason, error.what
    except MemoryError:
        reason, text = Reason.UNDECODABLE_PIXELS, "it needs more memory than this machine has left"
    except Exception:  # noqa: BLE001 - the fault of one object, whatever it is; its words may quote the object
        reason, text = Reason.UNREADABLE, "an object that cannot be read"
    return RefusedObject(reason, text, door.name_object(obj))


_door: Door | None = None
"""A process's own."""


def _start_worker(parent: int, rules: Rules) -> None:
    global _door
    begin_worker(parent)
    _door = rules.make_door()


def _clean_batch(batch: Sequence[Object]) -> list[Cleaned]:
    assert _door is not None  # noqa: S101 (for mypy: `_start_worker` came first)
    return clean_objects(_door, batch)
