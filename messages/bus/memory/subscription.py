"""One consumer of one queue of the broker in memory: where it reads, its credit, and its lock on an inbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from messages.bus import cursor as cursors
from messages.bus.base import BusState, Delivery, Notice, OnDelivery, Position, Start
from messages.bus.memory.broker import MemoryBroker, Message, Stream
from messages.ground.clock import Condition


class Owner(Protocol):
    """The connection that a subscription belongs to, as it sees it."""

    broker: MemoryBroker
    news: Condition
    verify_within: float
    woken: dict[MemorySubscription, None]
    silent: dict[MemorySubscription, None]

    def forget_subscription(self, subscription: MemorySubscription) -> None:
        """It is cancelled."""

    def pass_notice(self, notice: Notice) -> None:
        """Tell the owner of the bus."""


class MemorySubscription:
    """All methods but `ack` and `cancel` are called with the broker's lock held."""

    def __init__(
        self,
        bus: Owner,
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
        self._stream: Stream | None = None
        self._tag = 0
        self._offset = 0
        self._cursor = cursors.Cursor(start.value)
        self._unacked: dict[int, Message] = {}
        self._cancelled = False
        self._counted = False

    def wake_up(self) -> None:
        """Have the bus look at this subscription."""
        self._bus.woken[self] = None
        self._bus.news.notify_all()

    def take_lock(self) -> bool:
        """Become a consumer of an inbox; False while another one holds it, or this one wants it for itself."""
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

    def stored_position(self) -> Position | None:
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
            self._seek_cursor(cursors.attach(stored, self._start))

    def next_delivery(self) -> Delivery | None:
        """The next message to hand over, or None."""
        stream = self._stream
        if stream is None:
            return self._next_of_inbox()
        if self.silent_at is not None and self._broker.clock.monotonic() >= self.silent_at:
            self._rewind_to(cursors.on_silence(self._cursor)[0])
        while len(self._unacked) < self._credit:
            self._offset = max(self._offset, stream.first)
            if self._offset >= stream.end:
                return None
            offset, message = self._offset, stream.get_message(self._offset)
            self._cursor, verdict = cursors.on_message(self._cursor, offset, message.body)
            if verdict is cursors.CursorVerdict.REWIND:
                self._rewind_to(self._cursor)
                continue
            self._await_silence(None)
            self._offset += 1
            if verdict is cursors.CursorVerdict.DELIVER:
                return self._hand_over(message, offset)
        return None

    def ack(self, delivery: Delivery) -> None:
        with self._broker.changed:
            if delivery.epoch == self._epoch and self._unacked.pop(delivery.tag, None) is not None:
                self.wake_up()

    def seek(self, position: Position | None) -> None:
        with self._broker.changed:
            if not self._cancelled:
                self._start = Start.FIRST
                self.attach(position)
                self.wake_up()

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
            self._bus.forget_subscription(self)
            self._broker.changed.notify_all()

    def _rewind_to(self, cursor: cursors.Cursor) -> None:
        self._bus.pass_notice(Notice(BusState.RENEWED, self.queue))
        self._seek_cursor(cursor)

    def _seek_cursor(self, cursor: cursors.Cursor) -> None:
        self._past_epochs = max(self._past_epochs, self._epoch)
        self._epoch = self._past_epochs + 1
        self._unacked.clear()
        self._cursor = cursor
        if isinstance(cursor.offset, int):
            self._offset = cursor.offset
        elif (stream := self._stream) is not None:
            self._offset = stream.first if cursor.offset == Start.FIRST else stream.end
        verifying = cursor.mode is cursors.Mode.VERIFYING
        self._await_silence(self._broker.clock.monotonic() + self._bus.verify_within if verifying else None)

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

    def _hand_over(self, message: Message, offset: int | None) -> Delivery:
        self._tag += 1
        self._unacked[self._tag] = message
        return Delivery(self.queue, message.key, message.body, message.user, offset, self._tag, self._epoch)

    def _give_back(self) -> None:
        inbox = self._broker.inboxes.get(self.queue)
        if inbox is not None:
            inbox.ready.extendleft(reversed(self._unacked.values()))
            self._broker.wake_consumers(self.queue)
        self._unacked.clear()


class NoSubscription:
    """Of a queue that is not there, for who can live without it."""

    def ack(self, delivery: Delivery) -> None:
        """Nothing came."""

    def seek(self, position: Position | None) -> None:
        """There is nothing to read."""

    def cancel(self) -> None:
        """There is nothing to stop."""
