"""The bus in memory: one broker object, any number of parties, in one process. For simulation and fast tests.

The broker is faithful where it matters: streams with offsets and retention, classic inboxes with redelivery and
exclusive consumers, topic bindings, users and permissions from the same definitions as RabbitMQ's, and the same
silence for a consumer that attaches behind the end of a wiped stream. Each bus delivers on a thread of its own,
queue by queue in order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from messages import names
from messages.bus import cursor as cursors
from messages.bus.base import (
    Body,
    BusState,
    Confirm,
    Delivery,
    Notice,
    OnDelivery,
    OnNotice,
    Pending,
    Position,
    Start,
    Subscription,
)
from messages.bus.confirm import Receipt
from messages.bus.grants import Grants, Topics
from messages.errors import BrokerUnreachable, LoginRefused, NameTaken, RequestError


@dataclass(frozen=True, slots=True)
class _Message:
    key: str
    body: bytes
    user: str


@dataclass
class _Stream:
    max_bytes: int | None
    first: int = 0
    size: int = 0
    messages: deque[_Message] = field(default_factory=deque)

    @property
    def end(self) -> int:
        return self.first + len(self.messages)

    def append(self, message: _Message) -> None:
        self.messages.append(message)
        self.size += len(message.body)
        if self.max_bytes is not None:
            while self.size > self.max_bytes and len(self.messages) > 1:
                self.drop_head()

    def drop_head(self) -> None:
        self.size -= len(self.messages.popleft().body)
        self.first += 1

    def get(self, offset: int) -> _Message:
        return self.messages[offset - self.first]


@dataclass
class _Inbox:
    ready: deque[_Message] = field(default_factory=deque)
    exclusive: object | None = None
    consumers: int = 0


class MemoryBroker:
    """A broker with one vhost.

    Args:
        definitions: RabbitMQ definitions, as `deploy.broker.definitions.render` makes them.
        vhost: which of their vhosts; default: the only one.
    """

    def __init__(self, definitions: Mapping[str, Any], vhost: str | None = None) -> None:
        self.vhost = definitions["vhosts"][0]["name"] if vhost is None else vhost
        self.grants = Grants(definitions, self.vhost)
        self.lock = threading.RLock()
        """Guards everything here and in the buses."""
        self.changed = threading.Condition(self.lock)
        """Tells of exclusive locks and confirms; of messages each bus hears by itself, for its own queues only."""
        self.buses: set[MemoryBus] = set()
        self.consumers: dict[str, list[_MemorySubscription]] = {}
        self.up = True
        self.epoch = 1
        self.streams: dict[str, _Stream] = {}
        self.inboxes: dict[str, _Inbox] = {}
        self._limits: dict[str, int | None] = {}
        for queue in definitions["queues"]:
            if queue["vhost"] != self.vhost:
                continue
            if queue["arguments"].get("x-queue-type") == "stream":
                self._limits[queue["name"]] = queue["arguments"].get("x-max-length-bytes")
                self.wipe(queue["name"])
            else:
                self.inboxes[queue["name"]] = _Inbox()
        self._topics = Topics(
            (binding["routing_key"], binding["destination"])
            for binding in definitions["bindings"]
            if binding["vhost"] == self.vhost
        )

    def queues_for(self, key: str) -> list[str]:
        """The queues a routing key leads to."""
        return sorted(self._topics.queues(key))

    def wake(self, queue: str) -> None:
        """Have the queue's consumers look at it; with the lock held."""
        for subscription in self.consumers.get(queue, ()):
            subscription.wake()

    def publish(self, user: str, key: str, body: bytes) -> None:
        """Route one message; raises LoginRefused (permission) or RequestError (no queue takes the key)."""
        with self.changed:
            if not self.grants.may_write(user, names.EXCHANGE, key):
                raise LoginRefused(
                    f"{user!r} may not write {key!r}",
                    where=self.vhost,
                    advice="Ask the consortium's operator for the permission",
                )
            queues = self.queues_for(key)
            if not queues:
                raise RequestError(f"no queue takes the key {key!r}", where=self.vhost)
            message = _Message(key, body, user)
            for queue in queues:
                if queue in self.streams:
                    self.streams[queue].append(message)
                else:
                    self.inboxes[queue].ready.append(message)
                self.wake(queue)

    def wipe(self, queue: str) -> None:
        """Delete a stream and declare it again, empty; its offsets begin at 0, and its consumers attach anew."""
        with self.changed:
            self.streams[queue] = _Stream(self._limits[queue])
            self.wake(queue)

    def truncate(self, queue: str, keep: int) -> None:
        """Drop a stream's head, as retention does, until `keep` messages are left; offsets stay."""
        with self.changed:
            stream = self.streams[queue]
            while len(stream.messages) > keep:
                stream.drop_head()

    def length(self, queue: str) -> int:
        """How many messages wait in a queue or are kept in a stream."""
        with self.changed:
            if queue in self.streams:
                return len(self.streams[queue].messages)
            return len(self.inboxes[queue].ready)

    def stop(self) -> None:
        """Break every connection; publishes wait until `start`."""
        with self.changed:
            self.up = False
            self._tell_all()

    def start(self) -> None:
        """Take connections again: every bus attaches anew, and unacknowledged inbox messages come again."""
        with self.changed:
            self.up = True
            self.epoch += 1
            self._tell_all()
            self.changed.notify_all()

    def _tell_all(self) -> None:
        for bus in self.buses:
            bus.news.notify_all()


class MemoryBus:
    """One party's connection to a `MemoryBroker`; see `messages.bus.base.Bus`.

    Args:
        verify_within: seconds until silence at a stored offset means that the stream was wiped.
        lock_wait: seconds that `subscribe(exclusive=True)` waits for a holder to go.
        window: bytes that may wait while the broker is stopped (up, it confirms at once); one message always may.

    Raises:
        LoginRefused: the party has no login.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        party: str,
        *,
        on_notice: OnNotice | None = None,
        verify_within: float = 1.0,
        lock_wait: float = 0.0,
        window: int = 16 * 2**20,
    ) -> None:
        if not broker.grants.may_login(party):
            raise LoginRefused(
                f"the broker refuses the login {party!r}",
                where=broker.vhost,
                advice="Check user and password in the configuration",
            )
        self.broker = broker
        self.party = party
        self.verify_within = verify_within
        self._lock_wait = lock_wait
        self._on_notice = on_notice or (lambda _notice: None)
        self.news = threading.Condition(broker.lock)
        self.woken: dict[_MemorySubscription, None] = {}
        """Subscriptions that may have something to deliver, or must attach; the others are not looked at."""
        self.silent: dict[_MemorySubscription, None] = {}
        """Those that verify a stored position, and go on from the first message after a silence."""
        self._subscriptions: dict[_MemorySubscription, None] = {}
        self._closed = False
        self._outbox: deque[tuple[str, bytes, Receipt, float]] = deque()
        self._window, self._in_flight = window, 0
        self._thread = threading.Thread(target=self._run, name=f"bus-{party}", daemon=True)
        with broker.changed:
            broker.buses.add(self)
        self._thread.start()

    def publish(self, key: str, body: Body) -> Confirm:
        """Route one message at once; while the broker is stopped, keep it until it is back, as the window allows."""
        receipt = Receipt()
        whole = b"".join(body) if isinstance(body, tuple) else bytes(body)
        with self.broker.changed:
            self.broker.changed.wait_for(
                lambda: (
                    self._closed
                    or self.broker.up
                    or not self._in_flight
                    or self._in_flight + len(whole) <= self._window
                )
            )
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=self.broker.vhost)
            self._outbox.append((key, whole, receipt, time.monotonic()))
            self._in_flight += len(whole)
            self._send()
        return receipt

    def pending(self) -> Pending:
        """What waits for the broker to come back."""
        with self.broker.changed:
            waited = time.monotonic() - self._outbox[0][3] if self._outbox else 0.0
            return Pending(len(self._outbox), self._in_flight, waited)

    def subscribe(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        position: Callable[[], Position | None] | None = None,
        start: Start = Start.FIRST,
        credit: int = 64,
        exclusive: bool = False,
    ) -> Subscription:
        """Consume a queue; see `Bus.subscribe`."""
        broker = self.broker
        deadline = time.monotonic() + self._lock_wait
        stored = position() if position is not None else None
        with broker.changed:
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=broker.vhost)
            if queue not in broker.streams and queue not in broker.inboxes:
                raise RequestError(
                    f"queue {queue!r} does not exist",
                    where=broker.vhost,
                    advice="Topology comes from the broker's definitions: render and load them again",
                )
            if not broker.grants.may_read(self.party, queue):
                raise LoginRefused(f"{self.party!r} may not read {queue!r}", where=broker.vhost)
            if exclusive and queue in broker.streams:
                raise RequestError("only an inbox can have an exclusive consumer", where=queue)
            subscription = _MemorySubscription(self, queue, on_delivery, position, start, credit, exclusive)
            while not subscription.take_lock():
                if not broker.changed.wait(deadline - time.monotonic()):
                    raise NameTaken(
                        f"another process runs under the name {self.party!r}",
                        where=queue,
                        advice="Stop the other one first, or give this one a name of its own",
                    )
            self._subscriptions[subscription] = None
            broker.consumers.setdefault(queue, []).append(subscription)
            subscription.attach(stored)
            subscription.wake()
        return subscription

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was published is confirmed."""
        with self.broker.changed:
            return self.broker.changed.wait_for(lambda: not self._outbox or self._closed, timeout) and (
                not self._outbox
            )

    def close(self) -> None:
        """Close; unacknowledged inbox messages go back to their queue."""
        with self.broker.changed:
            if self._closed:
                return
            self._closed = True
            for _key, _body, receipt, _since in self._outbox:
                receipt.settle(BrokerUnreachable("the bus was closed before the confirm", where=self.broker.vhost))
            for subscription in list(self._subscriptions):
                subscription.cancel()
            self.broker.buses.discard(self)
            self.news.notify_all()
            self.broker.changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._on_notice(Notice(BusState.CLOSED))

    def noticed(self, notice: Notice) -> None:
        """Called by a subscription whose stream is another one."""
        self._on_notice(notice)

    def forget(self, subscription: _MemorySubscription) -> None:
        """Called by a subscription that was cancelled."""
        for place in (self._subscriptions, self.woken, self.silent):
            place.pop(subscription, None)
        self.broker.consumers[subscription.queue].remove(subscription)

    def _send(self) -> None:
        while self.broker.up and self._outbox:
            key, body, receipt, _since = self._outbox.popleft()
            self._in_flight -= len(body)
            try:
                self.broker.publish(self.party, key, body)
            except (LoginRefused, RequestError) as error:
                receipt.settle(error)
            else:
                receipt.settle()
        self.broker.changed.notify_all()

    def _run(self) -> None:
        epoch = self.broker.epoch
        connected = True
        self._on_notice(Notice(BusState.CONNECTED))
        while True:
            work: list[tuple[OnDelivery, Delivery]] = []
            stale: list[_MemorySubscription] = []
            notice = None
            with self.broker.changed:
                if self._closed:
                    return
                if connected and not (self.broker.up and self.broker.epoch == epoch):
                    connected, notice = False, Notice(BusState.LOST)
                    for subscription in self._subscriptions:
                        subscription.detach()
                elif not connected and self.broker.up:
                    connected, epoch, notice = True, self.broker.epoch, Notice(BusState.CONNECTED)
                    self._send()
                elif connected:
                    stale = [one for one in self.woken if one.detached]
                    work = self._next()
                if not work and not stale and notice is None:
                    self._wait()
            if notice is not None:
                self._on_notice(notice)
            for subscription in stale:
                stored = subscription.stored()  # the owner's store may wait for a lock: never ask with ours held
                with self.broker.changed:
                    if subscription in self._subscriptions:  # else it was cancelled meanwhile
                        subscription.attach(stored)
                        subscription.wake()
            for on_delivery, delivery in work:
                on_delivery(delivery)

    def _next(self) -> list[tuple[OnDelivery, Delivery]]:
        """One message of each subscription that has one; what has none sleeps until it is woken."""
        work: list[tuple[OnDelivery, Delivery]] = []
        for one in list(self.woken):
            if one.detached:
                continue
            delivery = one.next()
            if delivery is None:
                del self.woken[one]
            else:
                work.append((one.on_delivery, delivery))
        return work

    def _wait(self) -> None:
        deadlines = [one.silent_at for one in self.silent if one.silent_at is not None]
        self.news.wait(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None)
        now = time.monotonic()
        for one in self.silent:
            if one.silent_at is not None and now >= one.silent_at:
                self.woken[one] = None


class _MemorySubscription:
    """All methods but `ack` and `cancel` are called with the broker's lock held."""

    def __init__(
        self,
        bus: MemoryBus,
        queue: str,
        on_delivery: OnDelivery,
        position: Callable[[], Position | None] | None,
        start: Start,
        credit: int,
        exclusive: bool,
    ) -> None:
        self.on_delivery = on_delivery
        self.silent_at: float | None = None
        self.queue = queue
        self._bus, self._broker = bus, bus.broker
        self._position, self._start, self._credit, self._exclusive = position, start, credit, exclusive
        self._epoch = 0
        self._past_epochs = 0
        self._stream: _Stream | None = None
        self._tag = 0
        self._offset = 0
        self._cursor = cursors.Cursor(start.value)
        self._unacked: dict[int, _Message] = {}
        self._cancelled = False
        self._counted = False

    def wake(self) -> None:
        """Have the bus look at this subscription."""
        self._bus.woken[self] = None
        self._bus.news.notify_all()

    def take_lock(self) -> bool:
        inbox = self._broker.inboxes.get(self.queue)
        if inbox is None:
            return True
        if inbox.exclusive is not None or (self._exclusive and inbox.consumers):
            return False
        if self._exclusive:
            inbox.exclusive = self
        inbox.consumers += 1
        self._counted = True
        return True

    @property
    def detached(self) -> bool:
        """Whether it must attach (again): the connection broke, or the stream was declared anew."""
        return self._epoch == 0 or self._broker.streams.get(self.queue) is not self._stream

    def stored(self) -> Position | None:
        """What the owner has stored; called without the broker's lock."""
        return self._position() if self._position is not None else None

    def detach(self) -> None:
        """The connection broke: inbox messages in hand go back, and acks of before mean nothing now."""
        self._give_back()
        self._past_epochs, self._epoch = max(self._past_epochs, self._epoch), 0
        self._await_silence(None)
        self._bus.woken[self] = None

    def attach(self, stored: Position | None) -> None:
        """Begin (again); a stream is read from its stored position."""
        self.detach()
        self._stream = self._broker.streams.get(self.queue)
        if self._stream is None:
            self._epoch = self._past_epochs + 1
        else:
            self._seek(cursors.attach(stored, self._start))

    def next(self) -> Delivery | None:
        """The next message to hand over, or None."""
        stream = self._stream
        if stream is None:
            return self._next_of_inbox()
        if self.silent_at is not None and time.monotonic() >= self.silent_at:
            self._rewind(cursors.on_silence(self._cursor)[0])
        while len(self._unacked) < self._credit:
            self._offset = max(self._offset, stream.first)
            if self._offset >= stream.end:
                return None
            offset, message = self._offset, stream.get(self._offset)
            self._cursor, verdict = cursors.on_message(self._cursor, offset, message.body)
            if verdict is cursors.Verdict.REWIND:
                self._rewind(self._cursor)
                continue
            self._await_silence(None)
            self._offset += 1
            if verdict is cursors.Verdict.DELIVER:
                return self._hand_over(message, offset)
        return None

    def ack(self, delivery: Delivery) -> None:
        with self._broker.changed:
            if delivery.epoch == self._epoch and self._unacked.pop(delivery.tag, None) is not None:
                self.wake()

    def seek(self, position: Position | None) -> None:
        with self._broker.changed:
            if not self._cancelled:
                self._start = Start.FIRST
                self.attach(position)
                self.wake()

    def cancel(self) -> None:
        with self._broker.changed:
            if self._cancelled:
                return
            self._cancelled = True
            self._give_back()
            inbox = self._broker.inboxes.get(self.queue)
            if inbox is not None and self._counted:
                inbox.consumers -= 1
                if inbox.exclusive is self:
                    inbox.exclusive = None
            self._bus.forget(self)
            self._broker.changed.notify_all()

    def _rewind(self, cursor: cursors.Cursor) -> None:
        self._bus.noticed(Notice(BusState.RENEWED, self.queue))
        self._seek(cursor)

    def _seek(self, cursor: cursors.Cursor) -> None:
        self._past_epochs = max(self._past_epochs, self._epoch)
        self._epoch = self._past_epochs + 1
        self._unacked.clear()
        self._cursor = cursor
        if isinstance(cursor.offset, int):
            self._offset = cursor.offset
        elif (stream := self._stream) is not None:
            self._offset = stream.first if cursor.offset == Start.FIRST else stream.end
        verifying = cursor.mode is cursors.Mode.VERIFYING
        self._await_silence(time.monotonic() + self._bus.verify_within if verifying else None)

    def _await_silence(self, until: float | None) -> None:
        self.silent_at = until
        if until is None:
            self._bus.silent.pop(self, None)
        else:
            self._bus.silent[self] = None

    def _next_of_inbox(self) -> Delivery | None:
        inbox = self._broker.inboxes[self.queue]
        if not inbox.ready or len(self._unacked) >= self._credit:
            return None
        return self._hand_over(inbox.ready.popleft(), None)

    def _hand_over(self, message: _Message, offset: int | None) -> Delivery:
        self._tag += 1
        self._unacked[self._tag] = message
        return Delivery(self.queue, message.key, message.body, message.user, offset, self._tag, self._epoch)

    def _give_back(self) -> None:
        inbox = self._broker.inboxes.get(self.queue)
        if inbox is not None:
            inbox.ready.extendleft(reversed(self._unacked.values()))
            self._broker.wake(self.queue)
        self._unacked.clear()
