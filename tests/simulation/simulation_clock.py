"""One machine's clock within virtual time: its wall clock may jump, drift and stand; its threads can be held, or never
go on again. What a killed process had begun does not end: its threads stay where they wait until all is over."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from messages.ground.clock import Condition, Event, Pool, Queue
from messages.ground.virtual.clock import VirtualClock
from messages.ground.virtual.turns import Turns, Waiter
from messages.ground.virtual.waits import VirtualPool, VirtualThread


@dataclass
class Dial:
    """How a machine's wall clock differs from true time; it outlives its processes. `since`: when it was set last."""

    since: float
    offset: float = 0.0
    rate: float = 1.0

    def read_wall(self, now: float) -> float:
        """What it shows at a true time."""
        return self.since + self.offset + (now - self.since) * self.rate

    def turn_to(self, now: float, *, offset: float | None = None, rate: float | None = None) -> None:
        """Jump by so many seconds, or go at another rate from now on."""
        shown = self.read_wall(now)
        self.offset = shown - now + (0.0 if offset is None else offset)
        self.since, self.rate = now, self.rate if rate is None else rate


class PartyClock:
    """The clock of one process (`messages.ground.clock.Clock`), and the hold on its threads."""

    def __init__(self, clock: VirtualClock, dial: Dial) -> None:
        self._clock, self._dial = clock, dial
        self._turns: Turns = clock._turns
        self._born = dial.read_wall(clock.wall()), clock.monotonic()
        self._threads: list[VirtualThread] = []
        self._held: dict[Waiter, float | None] = {}
        """Who is held → when its wait is over; None: never, by time."""
        self.gone = False

    def wall(self) -> float:
        return self._dial.read_wall(self._clock.wall())

    def local(self) -> datetime:
        return datetime.fromtimestamp(self.wall(), UTC).replace(tzinfo=None)

    def now(self) -> float:
        return self._born[0] + self._clock.monotonic() - self._born[1]

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def make_queue(self) -> Queue[Any]:
        return self._clock.make_queue()

    def make_event(self) -> Event:
        return self._clock.make_event()

    def make_condition(self, lock: Any = None) -> Condition:
        return self._clock.make_condition(lock)

    def make_thread(self, target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
        thread = VirtualThread(self._turns, lambda: target(*args), name)
        self._threads = [one for one in self._threads if not one._over]
        self._threads.append(thread)
        return thread

    def make_pool(self, workers: int, name: str) -> Pool:
        pool = VirtualPool(self._turns, workers, name)
        self._threads += pool._threads
        return pool

    @property
    def held(self) -> bool:
        """Whether its threads are held."""
        return bool(self._held)

    def owns(self, thread: threading.Thread) -> bool:
        """Whether a thread is one of this process."""
        return thread in self._threads

    def hold(self) -> None:
        """Let none of the process's threads go on. The calling one may be one of them: it goes on until it waits."""
        turns = self._turns
        with turns.guard:
            due = {waiter: at for at, _order, waiter, wait in turns._due if waiter.wait == wait}
            for thread in self._threads:
                waiter = thread._waiter
                if waiter in turns._ready:
                    turns._ready.remove(waiter)
                    self._held[waiter] = turns.time
                elif waiter in turns._parked:
                    del turns._parked[waiter]
                    self._held[waiter] = due.get(waiter)

    def let_go(self) -> None:
        """They go on, those whose time is up meanwhile at once."""
        turns = self._turns
        with turns.guard:
            for waiter, due in self._held.items():
                if waiter.woken or (due is not None and due <= turns.time):
                    turns._ready.append(waiter)
                    continue
                turns._parked[waiter] = None
                if due is not None:
                    heapq.heappush(turns._due, (due, next(turns._order), waiter, waiter.wait))
            self._held.clear()

    def end_process(self) -> None:
        """The process is gone. Where the calling thread is one of its own, it never comes back from here."""
        self.gone = True
        self.hold()
        if self.owns(threading.current_thread()):
            with self._turns.guard:
                self._turns.park(deque(), None)
            raise AssertionError("a process that is gone went on")

    def release_dead(self) -> None:
        """All is over: what is held unwinds with the others, so that no thread is left behind."""
        with self._turns.guard:
            for waiter in self._held:
                self._turns._parked[waiter] = None
            self._held.clear()
