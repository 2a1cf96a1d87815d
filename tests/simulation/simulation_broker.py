"""The broker in memory, with the faults that RabbitMQ and the lines to it have (`simulation_plan.SOURCES`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, cast

from messages.bus.base import Delivery, OnDelivery, OnNotice
from messages.bus.confirm import Receipt
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError

Note = Callable[..., None]
"""Takes down what happened, for the trace."""
OnPublish = Callable[[str, str, bytes], None]
"""(party, key, body) of each message that the broker stores."""


class FaultyBroker(MemoryBroker):
    """See `MemoryBroker`.

    Args:
        on_publish: called before a message is stored.
    """

    def __init__(self, definitions: Mapping[str, Any], *, clock: Clock, on_publish: OnPublish) -> None:
        super().__init__(definitions, clock=clock)
        self._on_publish = on_publish
        self.alarm = False
        self._stored: deque[tuple[float, str, int]] = deque()

    def publish(self, user: str, key: str, body: bytes) -> None:
        self._on_publish(user, key, body)
        super().publish(user, key, body)
        now = self.clock.monotonic()
        for queue in self.queues_for(self.exchange_for(user), key):
            if queue in self.streams:
                self._stored.append((now, queue, self.streams[queue].end - 1))
        while self._stored and self._stored[0][0] < now - 10.0:
            self._stored.popleft()

    def lose_tail(self, seconds: float) -> int:
        """What streams took within so many seconds is gone, with its offsets; returns how many messages."""
        gone, since = 0, self.clock.monotonic() - seconds
        for at, queue, offset in reversed(self._stored):
            stream = self.streams[queue]
            if at >= since and stream.messages and stream.end - 1 == offset:
                stream.size -= len(stream.messages.pop().body)
                gone += 1
        self._stored.clear()
        return gone

    def wipe_all(self) -> None:
        """The data directory is lost; the definitions bring the topology back."""
        for queue in self.streams:
            self.wipe_stream(queue)
        for inbox in self.inboxes.values():
            inbox.ready.clear()

    def empty_inbox(self, queue: str) -> None:
        """An inbox is deleted and declared again."""
        self.inboxes[queue].ready.clear()


class Line:
    """A party's way to the broker.

    Attributes:
        cuts: how often it broke.
        up: whether a connection can be made.
        mute: what the party sends stays on the way. `deaf`: nothing comes back, neither messages nor confirms.
        late: seconds that a confirm takes. `twice`: what is sent arrives twice.
    """

    def __init__(self) -> None:
        self.cuts = 0
        self.up = True
        self.mute = self.deaf = self.twice = False
        self.late = 0.0


class _View:
    """The broker as one process sees it over its line."""

    def __init__(self, broker: FaultyBroker, line: Line, clock: Clock) -> None:
        self._broker, self._line, self.clock = broker, line, clock
        self.changed, self.streams, self.inboxes, self.buses = (  # looked up for each message, and never others
            broker.changed,
            broker.streams,
            broker.inboxes,
            broker.buses,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    @property
    def up(self) -> bool:
        return self._broker.up and self._line.up

    @property
    def epoch(self) -> int:
        return self._broker.epoch + self._line.cuts


class PartyBus(MemoryBus):
    """One process's connection, over a line that may fail."""

    def __init__(
        self, broker: FaultyBroker, party: str, line: Line, clock: Clock, note: Note, on_notice: OnNotice | None = None
    ) -> None:
        self._line, self._note = line, note
        self._unconfirmed: deque[tuple[float, str, bytes, Receipt]] = deque()
        super().__init__(cast(MemoryBroker, _View(broker, line, clock)), party, on_notice=on_notice, lock_wait=60.0)

    def _send_waiting(self) -> None:
        broker, line = cast(Any, self.broker), self._line
        while broker.up and not broker.alarm and not line.mute and self._outbox:
            key, body, receipt, _since = self._outbox.popleft()
            self._in_flight -= len(body)
            try:
                for _time in range(1 + line.twice):
                    broker.publish(self.party, key, body)
            except KonsilError as error:
                receipt.settle(error)
                continue
            if line.late or line.deaf:
                self._unconfirmed.append((self._clock.monotonic() + line.late, key, body, receipt))
            else:
                receipt.settle()
        broker.changed.notify_all()

    def _take_next(self) -> list[tuple[OnDelivery, Delivery]]:
        if self._line.deaf:
            return []
        work = super()._take_next()
        for _take, one in work:
            self._note("delivered", self.party, one.queue, one.offset, sha256(one.body).hexdigest()[:16])
        return work

    def _wait_for_news(self, connected: bool) -> None:
        super()._wait_for_news(connected and not self._line.deaf)

    def pass_time(self) -> None:
        """Confirms that are due come, and what the line held back goes."""
        with self.broker.changed:
            now = self._clock.monotonic()
            while self._unconfirmed and self._unconfirmed[0][0] <= now and self.broker.up and not self._line.deaf:
                self._unconfirmed.popleft()[3].settle()
            if self.broker.up and self._outbox:
                self._send_waiting()
            if not self._line.deaf and self.woken:
                self.news.notify_all()

    def break_line(self) -> None:
        """What has no confirm is sent again once there is a connection, in order, before what waits."""
        with self.broker.changed:
            for _due, key, body, receipt in reversed(self._unconfirmed):
                self._outbox.appendleft((key, body, receipt, self._clock.monotonic()))
                self._in_flight += len(body)
            self._unconfirmed.clear()
            self.news.notify_all()

    def vanish(self) -> None:
        """Its process is gone, and the broker has noticed."""
        with self.broker.changed:
            for subscription in list(self._subscriptions):
                subscription.cancel()
            self.broker.buses.pop(self, None)
            self.broker.changed.notify_all()
