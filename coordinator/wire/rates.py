"""How much of a sender's messages is looked at: so many, then so many a second. The rest is skipped unread.

What is skipped gets no receipt, so an honest outbox says it again: after 30 s, and once more after our hello. A message
that came before, byte for byte, has a small budget of its own. So what a site said again all through an outage leaves
the large one for what it said besides: reading back, each thing that it said is looked at once.

Honest needs: a site says two events a round, and what waits in its outbox is some events for each experiment. An event
that is refused costs 0.4 ms, so that a login takes 1 % of the main loop once its burst is spent. One that is accepted
costs a synced write besides.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from messages.bus.base import Delivery, digest_of
from messages.ground.clock import Queue
from messages.names import COORDINATOR

BURST, A_SECOND = 500.0, 20.0
"""Of messages that are new: at once, and in each second."""
AGAIN, AGAIN_A_SECOND = 50.0, 2.0
"""Of messages that came before."""
PIECE = 4096
"""Bytes that count as one message more: decoding costs by the byte."""
TOGETHER, TOGETHER_BYTES = 16, 2**20
"""What is skipped is acknowledged so many at a time: less than the credit of a queue, so that it never waits for it."""
NOBODY = "nobody"
"""Stands for who does not say who it is."""


@dataclass
class _Bucket:
    most: float
    a_second: float
    left: float

    def take(self, seconds: float, cost: float) -> bool:
        """Take what a message costs, where anything is left after so many seconds; the largest fits once."""
        self.left = min(self.most, self.left + seconds * self.a_second)
        if self.left < 1.0:
            return False
        self.left -= cost
        return True


class Allowances:
    """What each of some may cost: so much at once, then so much a second. One thread's.

    Args:
        now: seconds that only grow.
    """

    def __init__(self, now: Callable[[], float], most: float, a_second: float) -> None:
        self._now, self._most, self._a_second = now, most, a_second
        self._buckets: dict[str, tuple[float, _Bucket]] = {}

    def take(self, name: str, cost: float = 1.0) -> bool:
        """Take a cost, where anything is left; the largest fits once."""
        now = self._now()
        at, bucket = self._buckets.get(name) or (now, _Bucket(self._most, self._a_second, self._most))
        self._buckets[name] = (now, bucket)
        return bucket.take(now - at, cost)


@dataclass
class _Sender:
    at: float
    fresh: _Bucket
    again: _Bucket
    known: dict[bytes, None] = field(default_factory=dict)
    """Digests of what was let through since the budget was last whole; the oldest first."""


class Rates:
    """Budgets by sender; a sender is a login that the broker has checked, so there are only so many. One thread's.

    Args:
        now: seconds that only grow.
        share: of the budgets above; what is cheaper, or needs less, takes less.
    """

    def __init__(self, now: Callable[[], float], share: float = 1.0) -> None:
        self._now, self._share = now, share
        self._senders: dict[str, _Sender] = {}

    def may_pass(self, delivery: Delivery) -> bool:
        """Whether to look at a message; False: skip it."""
        name, now = delivery.user or NOBODY, self._now()
        one = self._senders.get(name)
        if one is None:
            one = self._senders[name] = self._welcome(now)
        seconds, one.at = now - one.at, now
        if one.fresh.left + seconds * one.fresh.a_second >= one.fresh.most:
            one.known.clear()
        digest = digest_of(delivery.body)
        bucket, other = (one.again, one.fresh) if digest in one.known else (one.fresh, one.again)
        other.left = min(other.most, other.left + seconds * other.a_second)
        if not bucket.take(seconds, 1.0 + len(delivery.body) / PIECE):
            return False
        one.known[digest] = None
        while len(one.known) > BURST:
            del one.known[next(iter(one.known))]
        return True

    def _welcome(self, now: float) -> _Sender:
        fresh, again = BURST * self._share, AGAIN * self._share
        return _Sender(
            now, _Bucket(fresh, A_SECOND * self._share, fresh), _Bucket(again, AGAIN_A_SECOND * self._share, again)
        )


@dataclass
class Skipped:
    """What was passed over between two messages that were not: how much of whom, and the last of each queue."""

    counts: Counter[str] = field(default_factory=Counter)
    last: dict[str, Delivery] = field(default_factory=dict)


class Turnstile:
    """Lets messages through to the main loop, on the bus's threads: what is skipped does not even wake it.

    What was skipped is told in the main loop's queue, in the place where it would have come, so that a stored position
    is never beyond a message that still waits there.

    Args:
        inputs: the main loop's queue: takes a `Delivery`, or a `Skipped`.
        now: seconds that only grow (`Clock.monotonic`).
        ack: acknowledges what is skipped.
    """

    def __init__(self, inputs: Queue[Any], now: Callable[[], float], ack: Callable[[Delivery], None]) -> None:
        self._inputs, self._ack = inputs, ack
        self._rates = Rates(now)
        self._lock = threading.Lock()
        self._skipped: Skipped | None = None
        self._unacked: list[Delivery] = []
        self._unacked_bytes = 0

    def take_delivery(self, delivery: Delivery) -> None:
        """Pass one message on, or skip it."""
        with self._lock:
            if delivery.user == COORDINATOR or self._rates.may_pass(delivery):
                self._tell_skipped()
                self._inputs.put(delivery)
                return
            if self._skipped is None:
                self._skipped = Skipped()
            self._skipped.counts[delivery.user or NOBODY] += 1
            self._skipped.last[delivery.queue] = delivery
            self._unacked.append(delivery)
            self._unacked_bytes += len(delivery.body)
            if len(self._unacked) >= TOGETHER or self._unacked_bytes >= TOGETHER_BYTES:
                self._ack_skipped()

    def tell_skipped(self) -> None:
        """Have the main loop told of what was skipped, and the broker: once a second. Any thread."""
        with self._lock:
            self._tell_skipped()
            self._ack_skipped()

    def _tell_skipped(self) -> None:
        if self._skipped is not None:
            self._inputs.put(self._skipped)
            self._skipped = None

    def _ack_skipped(self) -> None:
        for delivery in self._unacked:
            self._ack(delivery)
        self._unacked.clear()
        self._unacked_bytes = 0
