"""The bus over RabbitMQ (AMQP 0-9-1 through pika). Foreign exceptions end here.

Up to four connections, each on an I/O thread of its own and made when first needed: events out, chunks out,
events in, chunks in. So an abort never waits behind a model, in either direction, and a slow reader never holds up
a publisher (RabbitMQ: "use separate connections to publish and consume").
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from messages import kinds, names
from messages.bus.amqp.consumer import Consumer, Wish
from messages.bus.amqp.dialing import Dialer
from messages.bus.amqp.link import Backoff, Link
from messages.bus.amqp.outbox import Outbox, seconds_until
from messages.bus.amqp.window import LEAST, Window
from messages.bus.base import (
    Body,
    BusState,
    Confirm,
    Notice,
    OnDelivery,
    OnNotice,
    Pending,
    Position,
    Start,
    Subscription,
)
from messages.ground.errors import BrokerUnreachable
from messages.ground.settings import BrokerAddress

WINDOW = 4 * 2**20
"""Measured with 1, 2, 4, 8 and 16 MiB (benchmarks.broker_ceiling --window): beyond 4 the broker takes up to twice the
processor time for a byte and carries a third less; below, the clients take more."""
WINDOW_SECONDS = 2.0
EVENTS_AT_LEAST = 2**20
"""Bytes of events that may be unconfirmed, however slow the line."""
FLUSH_WITHIN = 5.0
BLOCKED_TIMEOUT = 300.0
"""Seconds of connection.blocked (disk or memory alarm) after which we reconnect; pika's default is for ever."""
CHUNK_ROUTES = (names.GLOBAL, names.MODELS, "update")

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it has to say comes as a Notice


class RabbitBus:
    """One party's way to the broker; see `messages.bus.base.Bus`.

    Args:
        address: broker, vhost and login (an empty `user` means the party's name).
        party: this party's name.
        on_notice: called on an I/O thread for each change of state.
        window: unconfirmed bytes in flight, for events and for chunks each.
        window_seconds: as many seconds of the rate at which the broker confirmed lately may be in flight.
        blocked_timeout: seconds of a broker's alarm after which the connection is made anew (nothing is lost).
        verify_within: seconds of silence at a stored offset that mean that the stream was wiped; chunk streams
            wait `chunks_verify_within`, since a chunk may take long on a slow line.
        lock_wait: seconds until a refused exclusive consumer is a twin; default: three heartbeats and 5 s, as
            long as the lock of a holder that merely stopped may last.
        idle: seconds of silence after which an event stream is attached anew (chunk streams: ten times as many).

    Raises:
        ConfigError: a certificate, key or password cannot be read.
    """

    def __init__(
        self,
        address: BrokerAddress,
        party: str,
        *,
        on_notice: OnNotice | None = None,
        window: int = WINDOW,
        window_seconds: float = WINDOW_SECONDS,
        blocked_timeout: float = BLOCKED_TIMEOUT,
        backoff: Backoff = Backoff(),
        verify_within: float = 5.0,
        chunks_verify_within: float = 30.0,
        lock_wait: float | None = None,
        idle: float = 30.0,
    ) -> None:
        self.party = party
        self._address = address
        self._user = address.user or party
        self._dialer = Dialer(address, self._user, blocked_timeout)
        self._on_notice = on_notice or (lambda _notice: None)
        self._window, self._window_seconds = window, window_seconds
        self._backoff = backoff
        self._verify_within, self._chunks_verify_within = verify_within, chunks_verify_within
        self._lock_wait = 3 * address.heartbeat_seconds + 5 if lock_wait is None else lock_wait
        self._idle = idle
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._down: set[str] = set()
        self._blocked: set[str] = set()
        self._refused: dict[str, Notice] = {}
        """Queues that may not be read, links on which nothing may be published, and what was said of it."""
        self._closed = False

    def connect(self, timeout: float = 10.0) -> None:
        """Connect for the first time; later losses are the bus's own affair (back-off, shown as notices).

        Raises:
            LoginRefused: login wrong, or no access to the vhost.
            BrokerUnreachable: nothing answered within `timeout` seconds.
        """
        self._open_outbox("events-out")
        try:
            self._open_link("events-out").wait_up(timeout)
        except Exception:
            self.close()
            raise

    def publish(self, key: str, body: Body) -> Confirm:
        """Send one message; see `Bus.publish`."""
        chunk = kinds.ROUTES.get(key.partition(".")[0]) in CHUNK_ROUTES
        return self._open_outbox("chunks-out" if chunk else "events-out").put_message(key, body)

    def subscribe(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        position: Callable[[], Position | None] | None = None,
        start: Start = Start.FIRST,
        credit: int = 64,
        exclusive: bool = False,
        vital: bool = True,
    ) -> Subscription:
        """Consume a queue; see `Bus.subscribe`. Returns once attached.

        Raises:
            BrokerUnreachable: the bus was closed.
            LoginRefused: the broker does not let this party read the queue.
        """
        chunks = queue in (names.GLOBAL, names.MODELS) or queue.startswith("update.")
        wish = Wish(
            queue=queue,
            on_delivery=on_delivery,
            position=position,
            start=start,
            credit=credit,
            exclusive=exclusive,
            vital=vital,
            # what nothing waits for is not published again for a broker that only took a breath
            verify_within=self._chunks_verify_within if chunks or not vital else self._verify_within,
            lock_wait=self._lock_wait,
            idle=self._idle * 10 if chunks else self._idle,
        )
        link = self._open_link("chunks-in" if chunks else "events-in")
        consumer = Consumer(link, wish, lambda notice: self._heard_of(queue, notice))
        link.add_user(consumer)
        try:
            while not consumer.attached.wait(0.5):
                if self._closed:
                    raise BrokerUnreachable("the bus was closed", where=link.address)
        except Exception:
            consumer.cancel()
            raise
        return consumer

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was published is settled."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            outboxes = list(self._outboxes.values())
        return all(outbox.flush(None if deadline is None else seconds_until(deadline)) for outbox in outboxes)

    def count_pending(self) -> Pending:
        """What is not confirmed, of events and chunks together."""
        with self._lock:
            outboxes, blocked = list(self._outboxes.values()), bool(self._blocked)
        parts = [outbox.count_pending() for outbox in outboxes]
        return Pending(
            messages=sum(part.messages for part in parts),
            bytes=sum(part.bytes for part in parts),
            waited=max((part.waited for part in parts), default=0.0),
            blocked=blocked,
        )

    def close(self) -> None:
        """Flush for a few seconds, and close every connection. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            outboxes, links = list(self._outboxes.values()), list(self._links.values())
            connected = set(self._links) - self._down
        for outbox in outboxes:
            outbox.close()
        deadline = time.monotonic() + (FLUSH_WITHIN if connected else 0.0)
        for outbox in outboxes:
            outbox.flush(seconds_until(deadline))
        for link in links:
            link.close()
        for outbox in outboxes:
            outbox.abandon_messages()
        self._on_notice(Notice(BusState.CLOSED))

    def _open_link(self, name: str) -> Link:
        with self._lock:
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=self._address.host)
            link = self._links.get(name)
            if link is None:
                link = Link(name, self._dialer, self._backoff, self._report_state)
                self._links[name] = link
                self._down.add(name)
                link.start()
            return link

    def _open_outbox(self, name: str) -> Outbox:
        link = self._open_link(name)
        with self._lock:
            outbox = self._outboxes.get(name)
            if outbox is None:
                # Events are small, and some are published by a main loop: it must not wait for a slow line.
                least = EVENTS_AT_LEAST if name == "events-out" else LEAST
                window = Window(self._window, self._window_seconds, least=least)
                outbox = Outbox(link, self._user, window, lambda notice: self._heard_of(name, notice))
                self._outboxes[name] = outbox
                link.add_user(outbox)
            return outbox

    def _report_state(self, link: Link, notice: Notice) -> None:
        """Report one state for all links: connected and unblocked mean all of them."""
        with self._lock:
            if notice.state is BusState.CONNECTED:
                self._down.discard(link.name)
                if self._down:
                    return
                notice = next(iter(self._refused.values()), notice)  # up again, and still not allowed
            elif notice.state in (BusState.LOST, BusState.REFUSED):
                self._down.add(link.name)
                self._blocked.discard(link.name)  # whether the alarm lasts, the next connection is told
            elif notice.state is BusState.BLOCKED:
                self._blocked.add(link.name)
            elif notice.state is BusState.UNBLOCKED:
                self._blocked.discard(link.name)
                if self._blocked:
                    return
        self._on_notice(notice)

    def _heard_of(self, part: str, notice: Notice) -> None:
        """A queue or the exchange is refused, or no longer; connected means that nothing is refused any more."""
        with self._lock:
            if notice.state is BusState.REFUSED:
                self._refused[part] = notice
            elif notice.state is BusState.CONNECTED:
                self._refused.pop(part, None)
                if self._down or self._refused:
                    return
        self._on_notice(notice)
