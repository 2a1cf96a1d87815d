"""How much of a sender's messages is looked at: so many, then so many a second. The rest is skipped unread.

What is skipped gets no receipt, so an honest outbox says it again: after 30 s, and once more after our hello. A message
that came before, byte for byte, has a small budget of its own. So what a site said again all through an outage leaves
the large one for what it said besides: reading back, each thing that it said is looked at once.

Honest needs: a site says two events a round, and what waits in its outbox is some events for each experiment. Measured
cost of an event that is refused: 0.4 ms, so that a login takes 2 % of the main loop at most once its burst is spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from messages.bus.base import Delivery, digest_of

BURST, A_SECOND = 1000.0, 50.0
"""Of messages that are new: at once, and in each second."""
AGAIN, AGAIN_A_SECOND = 100.0, 5.0
"""Of messages that came before."""
PIECE = 4096
"""Bytes that count as one message more: decoding costs by the byte."""
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
        now: seconds that only grow (`Clock.monotonic`).
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
