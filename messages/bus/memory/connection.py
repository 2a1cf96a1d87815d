"""One party's connection to the broker in memory: publishing, the thread that delivers, breaking and coming back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from messages.bus.base import (
    MOST_MESSAGES,
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
from messages.bus.memory.broker import MemoryBroker
from messages.bus.memory.subscription import MemorySubscription, NoSubscription
from messages.ground.errors import BrokerUnreachable, LoginRefused, NameTaken, RequestError


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
        self._clock = broker.clock
        self.news = self._clock.make_condition(broker.lock)
        self.woken: dict[MemorySubscription, None] = {}
        """Subscriptions that may have something to deliver, or must attach; the others are not looked at."""
        self.silent: dict[MemorySubscription, None] = {}
        """Those that verify a stored position, and go on from the first message after a silence."""
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._closed = False
        self._outbox: deque[tuple[str, bytes, Receipt, float]] = deque()
        self._window, self._in_flight = window, 0
        self._thread = self._clock.make_thread(self._deliver_messages, f"bus-{party}")
        with broker.changed:
            broker.buses[self] = None
        self._thread.start()

    def publish(self, key: str, body: Body) -> Confirm:
        """Route one message at once; while the broker is stopped, keep it until it is back, as the window allows."""
        receipt = Receipt(self._clock.make_event())
        whole = b"".join(body) if isinstance(body, tuple) else bytes(body)
        with self.broker.changed:
            self.broker.changed.wait_for(
                lambda: (
                    self._closed
                    or self.broker.up
                    or not self._in_flight
                    or (len(self._outbox) < MOST_MESSAGES and self._in_flight + len(whole) <= self._window)
                )
            )
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=self.broker.vhost)
            self._outbox.append((key, whole, receipt, self._clock.monotonic()))
            self._in_flight += len(whole)
            self._send_waiting()
        return receipt

    def count_pending(self) -> Pending:
        """What waits for the broker to come back."""
        with self.broker.changed:
            waited = self._clock.monotonic() - self._outbox[0][3] if self._outbox else 0.0
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
        vital: bool = True,
    ) -> Subscription:
        """Consume a queue; see `Bus.subscribe`."""
        broker = self.broker
        deadline = self._clock.monotonic() + self._lock_wait
        stored = position() if position is not None else None
        with broker.changed:
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=broker.vhost)
            there = queue in broker.streams or queue in broker.inboxes
            if not vital and not (there and broker.grants.may_read(self.party, queue)):
                self._on_notice(Notice(BusState.MISSING, queue))  # here it stays so
                return NoSubscription()
            if not there:
                raise RequestError(
                    f"queue {queue!r} does not exist",
                    where=broker.vhost,
                    advice="Topology comes from the broker's definitions: render and load them again",
                )
            if not broker.grants.may_read(self.party, queue):
                raise LoginRefused(f"{self.party!r} may not read {queue!r}", where=broker.vhost)
            if exclusive and queue in broker.streams:
                raise RequestError("only an inbox can have an exclusive consumer", where=queue)
            subscription = MemorySubscription(self, queue, on_delivery, position, start, credit, exclusive)
            while not subscription.take_lock():
                if not broker.changed.wait(deadline - self._clock.monotonic()):
                    raise NameTaken(
                        f"another process runs under the name {self.party!r}",
                        where=queue,
                        advice="Stop the other one first, or give this one a name of its own",
                    )
            self._subscriptions[subscription] = None
            broker.consumers.setdefault(queue, []).append(subscription)
            subscription.attach(stored)
            subscription.wake_up()
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
            self.broker.buses.pop(self, None)
            self.news.notify_all()
            self.broker.changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._on_notice(Notice(BusState.CLOSED))

    def pass_notice(self, notice: Notice) -> None:
        """Called by a subscription whose stream is another one."""
        self._on_notice(notice)

    def forget_subscription(self, subscription: MemorySubscription) -> None:
        """Called by a subscription that was cancelled."""
        for place in (self._subscriptions, self.woken, self.silent):
            place.pop(subscription, None)
        self.broker.consumers[subscription.queue].remove(subscription)

    def _send_waiting(self) -> None:
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

    def _deliver_messages(self) -> None:
        epoch = self.broker.epoch
        connected = True
        self._on_notice(Notice(BusState.CONNECTED))
        while True:
            work: list[tuple[OnDelivery, Delivery]] = []
            stale: list[MemorySubscription] = []
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
                    self._send_waiting()
                elif connected:
                    stale = [one for one in self.woken if one.detached]
                    work = self._take_next()
                if not work and not stale and notice is None:
                    self._wait_for_news(connected)
            if notice is not None:
                self._on_notice(notice)
            for subscription in stale:
                stored = (
                    subscription.stored_position()
                )  # the owner's store may wait for a lock: never ask with ours held
                with self.broker.changed:
                    if subscription in self._subscriptions:  # else it was cancelled meanwhile
                        subscription.attach(stored)
                        subscription.wake_up()
            for on_delivery, delivery in work:
                on_delivery(delivery)

    def _take_next(self) -> list[tuple[OnDelivery, Delivery]]:
        """One message of each subscription that has one; what has none sleeps until it is woken."""
        work: list[tuple[OnDelivery, Delivery]] = []
        for one in list(self.woken):
            if one.detached:
                continue
            delivery = one.next_delivery()
            if delivery is None:
                del self.woken[one]
            else:
                work.append((one.on_delivery, delivery))
        return work

    def _wait_for_news(self, connected: bool) -> None:
        # Whoever attaches while the broker is away hears nothing, and that says nothing.
        deadlines = [one.silent_at for one in self.silent if connected and one.silent_at is not None]
        self.news.wait(max(0.0, min(deadlines) - self._clock.monotonic()) if deadlines else None)
        now = self._clock.monotonic()
        for one in self.silent:
            if one.silent_at is not None and now >= one.silent_at:
                self.woken[one] = None
