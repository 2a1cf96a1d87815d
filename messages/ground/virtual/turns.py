"""Whose turn it is: threads go on one at a time, and time moves only when none of them can.

Exactly one *participant* runs. It gives its turn away only where it waits. The next turn goes to who became ready
first (with a seed: to one drawn by it). Where nobody is ready, time jumps to the earliest moment that somebody waits
for.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

STANDS_STILL = 200_000
"""Turns without any time passing that are no work any more, but a loop that waits for nothing."""


class Stopped(BaseException):
    """Raised in a participant's wait once all is over: it unwinds and ends without a word."""


class Waiter:
    """A participant, or one wait of another thread. `turn` is a lock that is free only to let it go on."""

    __slots__ = ("name", "outside", "turn", "wait", "woken")

    def __init__(self, name: str, *, outside: bool = False) -> None:
        self.name, self.outside = name, outside
        self.turn = threading.Lock()
        self.turn.acquire()
        self.wait = 0
        """Counts its waits, so that a due time of an earlier one is known as past."""
        self.woken = False


class Endable(Protocol):
    """A participant's thread."""

    def end(self, within: float) -> None:
        """Wait so many real seconds for its end."""


Place = deque[Waiter]
"""Who waits for the same thing, the first to come first."""


class Turns:
    """Gives the turns. Every method is called with `guard` held; nobody keeps it while waiting.

    Args:
        seed: draws whose turn is next among those who are ready; None: in the order in which they became so.

    Attributes:
        time: seconds that have passed.
        count: how many turns were given.
        threads: participants whose work is not done.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.guard = threading.Lock()
        self.time = 0.0
        self.count = 0
        self._moved_at = 0
        """The count when time moved last."""
        self.threads: set[Endable] = set()
        self._draw = None if seed is None else random.Random(seed)  # noqa: S311 (no secret: a schedule)
        self._here = threading.local()
        self._running: Waiter | None = None
        self._ready: deque[Waiter] = deque()
        self._parked: dict[Waiter, None] = {}
        self._due: list[tuple[float, int, Waiter, int]] = []
        self._order = itertools.count()
        self._stopped = False
        self._trace = sha256()

    @property
    def trace(self) -> str:
        """Digest of all turns so far: whose, and at what time."""
        return self._trace.hexdigest()

    def park(self, place: Place, timeout: float | None, let_go: Callable[[], None] | None = None) -> bool:
        """Wait in a place to be woken; False on time-out (None: never). The guard is free meanwhile.

        Args:
            let_go: called once the wait is known to those who wake.

        Raises:
            Stopped: all is over.
            RuntimeError: time stands still, since somebody waits in a loop for no time at all.
        """
        me: Waiter | None = getattr(self._here, "waiter", None)
        if me is None:
            return self._park_outside(place, timeout, let_go)
        self._check()
        if self.count - self._moved_at > STANDS_STILL:
            raise RuntimeError(f"virtual time stands still at {self.time} s, in the turn of {me.name}")
        me.woken, me.wait = False, me.wait + 1
        place.append(me)
        self._parked[me] = None
        if timeout is not None:
            heapq.heappush(self._due, (self.time + max(0.0, timeout), next(self._order), me, me.wait))
        if let_go is not None:
            let_go()
        self._pass_on()
        self._await_turn(me)
        if not me.woken and me in place:
            place.remove(me)
        self._check()
        return me.woken

    def wake(self, place: Place, count: int | None = None) -> None:
        """Let the first ones of a place go on; None: all."""
        for _ in range(len(place) if count is None else min(count, len(place))):
            waiter = place.popleft()
            waiter.woken = True
            if waiter.outside:
                waiter.turn.release()
            elif waiter in self._parked:
                del self._parked[waiter]
                self._ready.append(waiter)
        self._go_on()

    def enter(self, waiter: Waiter) -> None:
        """A new participant is ready."""
        self._ready.append(waiter)
        self._go_on()

    def take_over(self, waiter: Waiter) -> None:
        """The calling thread is this participant, and it is its turn: the first one of all."""
        self._running = self._here.waiter = waiter

    def begin(self, waiter: Waiter) -> None:
        """The calling thread is this participant from now on; returns once it is its turn.

        Raises:
            Stopped: all is over.
        """
        self._here.waiter = waiter
        self._await_turn(waiter)
        self._check()

    def leave(self) -> None:
        """The calling participant ends."""
        self._here.waiter = None
        self._pass_on()

    def stop(self) -> None:
        """All is over: whoever waits unwinds, one after the other."""
        self._stopped = True
        self._ready.extend(self._parked)
        self._parked.clear()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

    def _await_turn(self, me: Waiter) -> None:
        self.guard.release()
        me.turn.acquire()
        self.guard.acquire()

    def _park_outside(self, place: Place, timeout: float | None, let_go: Callable[[], None] | None) -> bool:
        """A thread that takes no turns waits in real time."""
        waiter = Waiter(threading.current_thread().name, outside=True)
        place.append(waiter)
        if let_go is not None:
            let_go()
        self.guard.release()
        waiter.turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        self.guard.acquire()
        if not waiter.woken:
            place.remove(waiter)
        return waiter.woken

    def _go_on(self) -> None:
        """A thread that takes no turns may have woken somebody while nobody could go on."""
        if self._running is None:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn away: to who is ready, else to who waits for the earliest time, else to nobody."""
        chosen = self._next_ready() or self._next_due()
        self._running = chosen
        if chosen is not None:
            self.count += 1
            self._trace.update(f"{self.time!r} {chosen.name}\n".encode())
            chosen.turn.release()

    def _next_ready(self) -> Waiter | None:
        if not self._ready:
            return None
        if self._draw is not None:
            self._ready.rotate(-self._draw.randrange(len(self._ready)))
        return self._ready.popleft()

    def _next_due(self) -> Waiter | None:
        while self._due:
            due, _order, waiter, wait = heapq.heappop(self._due)
            if waiter.wait == wait and waiter in self._parked:
                if due > self.time:
                    self.time, self._moved_at = due, self.count
                del self._parked[waiter]
                return waiter
        return None
