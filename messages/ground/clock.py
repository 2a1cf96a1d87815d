"""Time as a service sees it: what it reads, what it waits on, the threads that wait. Handed in, never called directly.

A composition root (`coordinator.service`, `site_agent.service`) makes one `SystemClock` and hands it to every part.
Under a `VirtualClock` the same parts run in virtual time. Queues, events and conditions come from the clock because
a wait with a time-out is a wait for time. Threads come from it because virtual time moves only when none can go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Queue(Protocol[T]):
    """As `queue.SimpleQueue`."""

    def put(self, item: T, /) -> None:
        """Append; never blocks."""

    def get(self, *, timeout: float | None = None) -> T:
        """The first item; raises `queue.Empty` where none came within `timeout` seconds (None: ever)."""

    def empty(self) -> bool:
        """Whether nothing is queued."""

    def qsize(self) -> int:
        """How many items are queued."""


class Event(Protocol):
    """As `threading.Event`."""

    def is_set(self) -> bool:
        """Whether it is set."""

    def set(self) -> None:
        """Set, and free who waits."""

    def clear(self) -> None:
        """Unset."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False where it was not within `timeout` seconds."""


class Condition(Protocol):
    """As `threading.Condition`."""

    def __enter__(self) -> bool:
        """Take its lock."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Free its lock."""

    def wait(self, timeout: float | None = None) -> bool:
        """Free the lock, wait to be notified, take it again; False where nobody notified within `timeout` seconds."""

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate holds; its last value."""

    def notify(self) -> None:
        """Free the first who waits."""

    def notify_all(self) -> None:
        """Free all who wait."""


class Pool(Protocol):
    """As `concurrent.futures.ThreadPoolExecutor`; jobs report by themselves."""

    def submit(self, job: Callable[[], None], /) -> object:
        """Queue a job; raises RuntimeError after `shutdown`."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. `cancel_futures`: drop those that have not begun."""


class Clock(Protocol):
    """What a service knows of time. Any thread."""

    def wall(self) -> float:
        """Seconds since 1970 by the machine's clock, which may be set and so jump."""

    def local(self) -> datetime:
        """The same as local date and time of day, without a zone: what an operator's hours are meant in."""

    def now(self) -> float:
        """Seconds since 1970, read once and then counted: a step of the machine's clock moves no deadline."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass."""

    def make_queue(self) -> Queue[Any]:
        """An empty queue."""

    def make_event(self) -> Event:
        """An event that is not set."""

    def make_condition(self, lock: Any = None) -> Condition:
        """A condition of a `threading.RLock`; None: of a new one."""

    def make_thread(self, target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
        """A daemon thread, not started yet."""

    def make_pool(self, workers: int, name: str) -> Pool:
        """A pool of so many threads."""


class SystemClock:
    """The machine's own clock, and what Python waits on."""

    def __init__(self) -> None:
        self._wall, self._base = time.time(), time.monotonic()

    def wall(self) -> float:
        """See `Clock`."""
        return time.time()

    def local(self) -> datetime:
        """See `Clock`."""
        return datetime.now()

    def now(self) -> float:
        """See `Clock`."""
        return self._wall + time.monotonic() - self._base

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)

    def make_queue(self) -> Queue[Any]:
        """See `Clock`."""
        return queue.SimpleQueue()

    def make_event(self) -> Event:
        """See `Clock`."""
        return threading.Event()

    def make_condition(self, lock: Any = None) -> Condition:
        """See `Clock`."""
        return threading.Condition(lock)

    def make_thread(self, target: Callable[..., object], name: str, *args: Any) -> threading.Thread:
        """See `Clock`."""
        return threading.Thread(target=target, name=name, args=args, daemon=True)

    def make_pool(self, workers: int, name: str) -> Pool:
        """See `Clock`."""
        return ThreadPoolExecutor(workers, thread_name_prefix=name)
