"""Publishing with asynchronous confirms: a window in bytes and time, everything unconfirmed sent again in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pika
from pika import exceptions, spec

from messages import names
from messages.bus.amqp import errors
from messages.bus.amqp.exchange import find_exchange
from messages.bus.amqp.link import Link
from messages.bus.amqp.readiness import Readiness
from messages.bus.amqp.window import Departure, Window
from messages.bus.base import MOST_MESSAGES, Body, BusState, Notice, Pending
from messages.bus.confirm import Receipt
from messages.ground.errors import BrokerUnreachable, KonsilError, RequestError
from messages.ground.metrics import PHASES

REFUSED_RETRY = 5.0
"""Seconds until the next try after a right that this party had was taken away."""
NACK_DELAY = 1.0
"""Seconds before a message that the broker could not take is sent again."""


@dataclass(frozen=True, slots=True)
class _Item:
    number: int
    key: str
    pieces: tuple[bytes | memoryview, ...]
    size: int
    receipt: Receipt
    departure: Departure | None
    since: float


class Outbox:
    """The publishing side of one link.

    Args:
        user: the login, set as `user_id` (the broker refuses a message whose user_id is not the login).
        window: how much may be in flight before `put_message` blocks; one message of any size may always fly.
        on_notice: called on the I/O thread with REFUSED where a right was taken away, CONNECTED where it is back.
    """

    def __init__(self, link: Link, user: str, window: Window, on_notice: Callable[[Notice], None]) -> None:
        self._link = link
        self._on_notice = on_notice
        self._user = user
        self._window = window
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._in_flight = 0
        self._open: dict[int, _Item] = {}
        self._count = 0
        self._closed = False
        self._woken = False
        # used on the I/O thread only
        self._channel: Any = None
        self._exchange = names.exchange_of(user)
        self._opening = False
        """Whether a channel is on its way: a second one would count delivery tags anew, under those of the first."""
        self._readiness = Readiness(link, self._send_waiting)
        self._tag = 0
        self._sent: dict[int, _Item] = {}
        self._delayed: list[_Item] = []
        self._returned: set[str] = set()
        self._welcome: set[str] = set()
        """Kinds of message and their senders that the broker has taken of us before: what a right is about."""
        self._refused = False

    def put_message(self, key: str, body: Body) -> Receipt:
        """Take one message; blocks while the window is full.

        Raises:
            BrokerUnreachable: the outbox was closed, also while waiting.
        """
        receipt = Receipt(threading.Event())
        pieces = body if isinstance(body, tuple) else (body,)
        size = sum(len(piece) for piece in pieces)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (len(self._open) < MOST_MESSAGES and self._window.allows_message(self._in_flight, size))
                )
            )
            if self._closed:
                raise BrokerUnreachable("the bus is closed", where=self._link.address)
            self._count += 1
            self._in_flight += size
            now = time.monotonic()
            departure = self._window.note_departure(now, self._in_flight)
            item = self._open[self._count] = _Item(self._count, key, pieces, size, receipt, departure, now)
            self._waiting.append(item)
            wake, self._woken = not self._woken, True
        if wake:
            self._link.call_soon(self._send_waiting)
        return receipt

    def flush(self, timeout: float | None) -> bool:
        """Wait until every message is settled."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout)

    def count_pending(self) -> Pending:
        """What is not confirmed."""
        with self._changed:
            oldest = next(iter(self._open.values()), None)
            waited = 0.0 if oldest is None else time.monotonic() - oldest.since
            return Pending(len(self._open), self._in_flight, waited)

    def close(self) -> None:
        """Take no more, wake who waits; what is unconfirmed is settled as lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon_messages(self) -> None:
        """Settle as lost what was never confirmed; call when the link has ended."""
        for item in self._all_items():
            self._settle_message(
                item, BrokerUnreachable("the bus was closed before the confirm", where=self._link.address)
            )

    def on_up(self, connection: Any) -> None:
        """Open a channel in confirm mode."""
        if connection.is_open and not self._opening:
            self._opening = True
            find_exchange(connection, self._user, lambda exchange: self._open_channel(connection, exchange))

    def on_down(self) -> None:
        """Whatever is unconfirmed waits for the next connection."""
        self._channel, self._opening = None, False
        self._readiness.forget_all()
        self._requeue_unconfirmed()
        with self._changed:
            self._window.restart_window()

    def _open_channel(self, connection: Any, exchange: str) -> None:
        if connection.is_open:
            self._exchange = exchange
            connection.channel(on_open_callback=self._channel_open)

    def _channel_open(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._note_ready(channel))

    def _note_ready(self, channel: Any) -> None:
        self._channel, self._tag, self._opening = channel, 0, False
        self._send_waiting()

    def _send_waiting(self) -> None:
        with self._changed:
            self._woken = False
        while self._channel is not None and self._channel.is_open:
            # only this thread takes from the left, so the first item stays the first
            if not self._waiting or not self._readiness.check_stream(self._waiting[0].key):
                return
            item = self._waiting.popleft()
            self._tag += 1
            self._sent[self._tag] = item
            self._channel.connection.publish(
                self._channel,
                self._exchange,
                item.key,
                item.pieces,
                pika.BasicProperties(delivery_mode=2, user_id=self._user, message_id=str(item.number)),
            )

    def _on_confirm(self, frame: Any) -> None:
        tag, multiple = frame.method.delivery_tag, frame.method.multiple
        tags = [one for one in self._sent if one <= tag] if multiple else [tag]
        items = [self._sent.pop(one) for one in tags if one in self._sent]
        PHASES.add_stretch("publish", 0.0, cpu=self._link.cpu_seconds())
        if isinstance(frame.method, spec.Basic.Nack):
            self._delayed += items
            self._link.call_later(NACK_DELAY, self._put_back_returned)
            return
        if self._refused and items:
            self._refused = False
            self._on_notice(Notice(BusState.CONNECTED, "publishing"))
        for item in items:
            self._welcome.add(_right_of(item))
            if str(item.number) in self._returned:
                self._returned.discard(str(item.number))
                self._settle_message(
                    item,
                    RequestError(f"no queue takes the key {item.key!r}", where=self._link.address),
                )
            else:
                self._settle_message(item)

    def _put_back_returned(self) -> None:
        """Put back what the broker could not take, before all that waits."""
        items, self._delayed = self._delayed, []
        with self._changed:
            self._waiting.extendleft(reversed(items))
        self._send_waiting()

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._returned.add(properties.message_id)

    def _channel_closed(self, channel: Any, reason: Any) -> None:
        if self._channel is not None and channel is not self._channel:
            return
        self._channel, self._opening = None, False
        if not isinstance(reason, exceptions.ChannelClosedByBroker):
            return  # the connection went: on_down follows
        refused = self._refused_items(reason.reply_code, reason.reply_text)
        error = errors.channel_error(reason.reply_code, reason.reply_text, self._link.address)
        gone = reason.reply_code in (errors.ACCESS_REFUSED, errors.NOT_FOUND)
        had = any(_right_of(item) in self._welcome for item in self._sent.values() if item.number in refused)
        self._requeue_unconfirmed()
        if gone and had:
            # A right that we had was taken away, and may be given back: nothing is lost over it.
            if not self._refused:
                self._refused = True
                self._on_notice(Notice(BusState.REFUSED, str(error), REFUSED_RETRY))
            self._link.call_later(REFUSED_RETRY, self._reopen_channel)
            return
        with self._changed:
            doomed = [item for item in self._waiting if item.number in refused]
            self._waiting = deque(item for item in self._waiting if item.number not in refused)
        for item in doomed:
            self._settle_message(item, error)
        self._link.call_later(0.0 if doomed else NACK_DELAY, self._reopen_channel)

    def _refused_items(self, code: int, text: str) -> set[int]:
        """Numbers of the sent messages that a channel's closing is about; the others are sent again."""
        if (key := errors.refused_topic(text)) is not None:
            return {item.number for item in self._sent.values() if item.key == key}
        if (size := errors.read_oversize(text)) is not None:
            return {item.number for item in self._sent.values() if item.size == size}
        if code in (errors.ACCESS_REFUSED, errors.NOT_FOUND, errors.PRECONDITION_FAILED):
            return {item.number for item in self._sent.values()}  # the exchange itself, or the user id
        return set()

    def _reopen_channel(self) -> None:
        connection = self._link.connection
        if connection is not None and connection.is_open and self._channel is None:
            self.on_up(connection)

    def _requeue_unconfirmed(self) -> None:
        with self._changed:
            # whoever flies twice tells nothing of the line (Karn's rule)
            self._waiting = deque(replace(item, departure=None) for item in self._all_items())
        self._sent.clear()
        self._delayed.clear()
        self._returned.clear()

    def _all_items(self) -> list[_Item]:
        with self._changed:
            items = [*self._sent.values(), *self._delayed, *self._waiting]
        return sorted(items, key=lambda item: item.number)

    def _settle_message(self, item: _Item, error: KonsilError | None = None) -> None:
        item.receipt.settle(error)
        with self._changed:
            self._in_flight -= item.size
            self._open.pop(item.number, None)
            if error is None:
                self._window.note_confirm(item.size, item.departure, time.monotonic())
            self._changed.notify_all()


def _right_of(item: _Item) -> str:
    """Kind and sender of a message: the same kind in another's name is another right, and was never given."""
    return ".".join(item.key.split(".")[:2])


def seconds_until(deadline: float) -> float:
    """Seconds until a monotonic deadline, never negative."""
    return max(0.0, deadline - time.monotonic())
