"""What participants of virtual time wait on: queue, event, condition, thread, pool. As Python's own, but for the time.

Threads that are no participants may use them too; their time-outs are real seconds.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from messages.ground.virtual.turns import Place, Stopped, Turns, Waiter

STUCK_AFTER = 30.0
"""Real seconds after which a lock that cannot be taken is one that a waiting participant holds."""


class VirtualQueue:
    """See `messages.ground.clock.Queue`."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self._items = turns, deque[Any]()
        self._takers: Place = deque()

    def put(self, item: Any, /) -> None:
        """Append."""
        with self._turns.guard:
            self._items.append(item)
            self._turns.wake(self._takers, 1)

    def get(self, *, timeout: float | None = None) -> Any:
        """The first item, or queue.Empty."""
        with self._turns.guard:
            end = None if timeout is None else self._turns.time + timeout
            while not self._items:
                left = None if end is None else end - self._turns.time
                if not self._turns.park(self._takers, left) and not self._items:
                    raise queue.Empty
            return self._items.popleft()

    def empty(self) -> bool:
        """Whether nothing is queued."""
        return not self._items

    def qsize(self) -> int:
        """How many items are queued."""
        return len(self._items)


class VirtualEvent:
    """See `messages.ground.clock.Event`."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self._set = turns, False
        self._waiting: Place = deque()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._set

    def set(self) -> None:
        """Set, and free who waits."""
        with self._turns.guard:
            self._set = True
            self._turns.wake(self._waiting)

    def clear(self) -> None:
        """Unset."""
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False on time-out."""
        with self._turns.guard:
            return self._set or self._turns.park(self._waiting, timeout) or self._set


class VirtualCondition:
    """See `messages.ground.clock.Condition`.

    Args:
        lock: an RLock, taken in real time: nobody may wait for anything else with it held.
    """

    def __init__(self, turns: Turns, lock: Any) -> None:
        self._turns, self._lock = turns, lock
        self._waiting: Place = deque()

    def __enter__(self) -> bool:
        return bool(self._lock.acquire())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified; False on time-out."""
        depth = 0

        def let_go() -> None:
            nonlocal depth
            while self._lock._is_owned():
                self._lock.release()
                depth += 1

        try:
            with self._turns.guard:
                return self._turns.park(self._waiting, timeout, let_go)
        finally:
            for _ in range(depth):
                if not self._lock.acquire(timeout=STUCK_AFTER):
                    raise RuntimeError("a participant of virtual time waits with a lock held")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate holds; its last value."""
        end = None if timeout is None else self._turns.time + timeout
        while not (found := predicate()):
            left = None if end is None else end - self._turns.time
            if left is not None and left <= 0:
                break
            if not self.wait(left) and left is not None:
                return predicate()  # an outsider's seconds are real: virtual time need not have moved
        return found

    def notify(self) -> None:
        """Free the first who waits."""
        with self._turns.guard:
            self._turns.wake(self._waiting, 1)

    def notify_all(self) -> None:
        """Free all who wait."""
        with self._turns.guard:
            self._turns.wake(self._waiting)


class VirtualThread(threading.Thread):
    """A participant. Its work begins when it is its turn."""

    def __init__(self, turns: Turns, work: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._turns, self._work, self._waiter = turns, work, Waiter(name)
        self._over = False
        self._joining: Place = deque()

    def start(self) -> None:
        """Begin."""
        super().start()
        with self._turns.guard:
            self._turns.threads.add(self)
            self._turns.enter(self._waiter)

    def run(self) -> None:
        """On the thread: wait for the first turn, then work."""
        try:
            with self._turns.guard:
                self._turns.begin(self._waiter)
            self._work()
        except Stopped:
            return
        finally:
            with self._turns.guard:
                self._over = True
                self._turns.threads.discard(self)
                self._turns.wake(self._joining)
                self._turns.leave()

    def join(self, timeout: float | None = None) -> None:
        """Wait until its work is done."""
        with self._turns.guard:
            if not self._over:
                self._turns.park(self._joining, timeout)

    def end(self, within: float) -> None:
        """Wait so many real seconds for its end."""
        super().join(within)

    def is_alive(self) -> bool:
        """Whether it was started and its work is not done."""
        return super().is_alive() and not self._over


class VirtualPool:
    """See `messages.ground.clock.Pool`."""

    def __init__(self, turns: Turns, workers: int, name: str) -> None:
        self._jobs, self._closed = VirtualQueue(turns), False
        self._threads = [VirtualThread(turns, self._work, f"{name}-{number}") for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None], /) -> None:
        """Queue a job."""
        if self._closed:
            raise RuntimeError("the pool takes no more jobs")
        self._jobs.put(job)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs."""
        self._closed = True
        while cancel_futures and not self._jobs.empty():
            self._jobs.get()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
