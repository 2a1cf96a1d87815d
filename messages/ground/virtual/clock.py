"""Virtual time for tests and simulation: hours pass in moments, and the same run takes the same turns.

The services' own threads run as they are, one at a time (`turns`). Work takes no time; only waiting does.

Limits:

- A participant that waits for anything else (a process, a socket, a lock that a waiting participant holds) stops all.
  So nobody may wait with a lock held, but for a condition's own.
- Other threads (a control socket's, a real trainer's) may put, set and notify, and wait in real seconds. Virtual time
  does not wait for them, and when their word comes is not part of what repeats.
- A participant that reads the time in a loop, without waiting, never sees it move.
- Turns change hands only in waits: a thread is never cut off between two of its lines.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from messages.ground.clock import Clock, Condition, Event, Pool, Queue
from messages.ground.virtual.turns import Turns, Waiter
from messages.ground.virtual.waits import VirtualCondition, VirtualEvent, VirtualPool, VirtualQueue, VirtualThread

T = TypeVar("T")
START = datetime(2026, 1, 5, 9, tzinfo=UTC).timestamp()
"""A Monday morning."""
UPTIME = 86400.0
"""What `monotonic` begins with: a machine that has run for a day."""
STOPPED_WITHIN = 10.0
"""Real seconds for a thread to unwind."""


class VirtualClock(Clock):
    """A `Clock` whose time moves when every thread waits.

    Args:
        start: `wall` in the beginning, seconds since 1970. `local` is UTC.
        seed: see `Turns`.
    """

    def __init__(self, start: float = START, seed: int | None = None) -> None:
        self._start, self._turns = start, Turns(seed)

    def wall(self) -> float:
        """See `Clock`."""
        return self._start + self._turns.time

    def local(self) -> datetime:
        """See `Clock`."""
        return datetime.fromtimestamp(self.wall(), UTC).replace(tzinfo=None)

    def now(self) -> float:
        """See `Clock`."""
        return self.wall()

    def monotonic(self) -> float:
        """See `Clock`."""
        return UPTIME + self._turns.time

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        with self._turns.guard:
            self._turns.park(deque(), seconds)

    def make_queue(self) -> Queue[Any]:
        """See `Clock`."""
        return VirtualQueue(self._turns)

    def make_event(self) -> Event:
        """See `Clock`."""
        return VirtualEvent(self._turns)

    def make_condition(self, lock: Any = None) -> Condition:
        """See `Clock`."""
        return VirtualCondition(self._turns, threading.RLock() if lock is None else lock)

    def make_thread(self, target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
        """See `Clock`."""
        return VirtualThread(self._turns, lambda: target(*args), name)

    def make_pool(self, workers: int, name: str) -> Pool:
        """See `Clock`."""
        return VirtualPool(self._turns, workers, name)

    @property
    def trace(self) -> str:
        """Digest of all turns so far: whose, and at what time. Two runs of the same are told apart by it."""
        return self._turns.trace

    @property
    def turns(self) -> int:
        """How many turns were given so far."""
        return self._turns.count

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass for parts that have no thread by this clock.

        Raises:
            RuntimeError: a thread of this clock runs or waits: it would miss what is due meanwhile. Use `sleep`.
        """
        with self._turns.guard:
            if self._turns.threads:
                raise RuntimeError("time passes by itself where threads wait for it")
            self._turns.time += seconds

    def run(self, body: Callable[[], T]) -> T:
        """Call `body` as the first participant. Once it is over, all others unwind where they wait (`Stopped`)."""
        with self._turns.guard:
            self._turns.take_over(Waiter("body"))
        try:
            return body()
        finally:
            with self._turns.guard:
                self._turns.stop()
                self._turns.leave()
                left = [*self._turns.threads]
            for thread in left:
                thread.end(STOPPED_WITHIN)

    def wait_until(self, condition: Callable[[], Any], within: float, every: float = 1.0) -> bool:
        """Let time pass until a condition holds, looked at every so many seconds; False where it did not hold."""
        end = self.monotonic() + within
        while not condition():
            if self.monotonic() >= end:
                return False
            self.sleep(every)
        return True
