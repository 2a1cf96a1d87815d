"""Consuming one queue through reconnects: verified positions on streams, the exclusive lock on inboxes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pika import exceptions

from messages import names
from messages.bus import cursor as cursors
from messages.bus.amqp import errors
from messages.bus.amqp.link import Link
from messages.bus.base import BusState, Delivery, Notice, OnDelivery, Position, Start, digest_of
from messages.bus.confirm import Receipt
from messages.ground.errors import KonsilError, NameTaken, RequestError
from messages.ground.metrics import PHASES

RETRY = 1.0
"""Seconds until the next try after the broker closed the channel."""
REFUSED_RETRY = 5.0
"""And where it did so because something is not allowed, or not there: it may be given back."""
SPARE_RETRY = 60.0
"""And where that is a right to what the party can live without: older definitions may not know of it."""

TELL_OF_DELETION = {"x-cancel-on-ha-failover": True}
"""Consumer argument of a classic queue. Without it RabbitMQ before 4.0 moves a consumer by itself to the queue that
was declared in the place of a deleted one, and says nothing (`queue_down_consumer_action` in rabbit_channel.erl,
3.10.8). RabbitMQ 4.0.5 always cancels, and ignores it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a consumer wants; see `Bus.subscribe`.

    `verify_within`: seconds of silence at a stored offset that mean "wiped". `lock_wait`: seconds that a dead
    holder's lock may last. `vital`: whether the party cannot live without it. `idle`: seconds of silence after which a
    stream is attached anew: a consumer that attached while a restarted broker was still choosing the stream's writer
    may never hear of it again.
    """

    queue: str
    on_delivery: OnDelivery
    position: Callable[[], Position | None] | None
    start: Start
    credit: int
    exclusive: bool
    vital: bool
    verify_within: float
    lock_wait: float
    idle: float


class Consumer:
    """A running subscription on a link. All methods but `ack` and `cancel` run on the link's I/O thread."""

    def __init__(self, link: Link, wish: Wish, on_notice: Callable[[Notice], None]) -> None:
        self.attached = Receipt(threading.Event())
        """Settled with the first attachment, or with why there is none."""
        self._link = link
        self._wish = wish
        self._on_notice = on_notice
        self._epoch = 0
        self._cursor = cursors.Cursor(wish.start.value)
        self._channel: Any = None
        self._cancelled = False
        self._refused_since: float | None = None
        self._refused = False
        """Whether the owner was told that it may not read."""
        self._deleted = False
        """Whether the broker said that the queue was, or is, no more."""
        self._last: Position | None = None
        self._heard = 0.0
        self._unacked = 0

    def ack(self, delivery: Delivery) -> None:
        """Give credit back (stream) or remove the message (inbox)."""
        self._link.backlog.remove_message((self, delivery.epoch), len(delivery.body))
        self._link.call_soon(lambda: self._send_ack(delivery))

    def seek(self, position: Position | None) -> None:
        """Read a stream again from behind this position, or from its head."""
        self._link.call_soon(lambda: self._seek_position(position))

    def cancel(self) -> None:
        """Stop delivering; idempotent."""
        self._cancelled = True
        self._link.remove_user(self)
        self._link.call_soon(self._close_channel)
        self._link.backlog.remove_message((self, self._epoch))

    def on_up(self, _connection: Any) -> None:
        """Attach on the new connection."""
        self._attach_to_queue()

    def on_down(self) -> None:
        """The channel went with the connection."""
        self._channel = None
        self._link.backlog.remove_message((self, self._epoch))

    def _attach_to_queue(self) -> None:
        """Begin (again) from what the service has stored."""
        stored = self._wish.position() if self._wish.position is not None else None
        self._open_channel(cursors.attach(stored, self._wish.start))

    def _open_channel(self, cursor: cursors.Cursor) -> None:
        connection = self._link.connection
        if self._cancelled or connection is None or not connection.is_open:
            return
        self._link.backlog.remove_message((self, self._epoch))
        self._epoch += 1
        self._cursor = cursor
        self._unacked = 0
        self._close_channel()
        epoch = self._epoch
        connection.channel(on_open_callback=lambda channel: self._channel_open(channel, epoch))

    def _channel_open(self, channel: Any, epoch: int) -> None:
        if epoch != self._epoch or self._cancelled:
            channel.close()
            return
        self._channel = channel
        channel.add_on_close_callback(lambda _channel, reason: self._channel_closed(reason, epoch))
        # the broker cancels where the queue is deleted, also when it is declared again (consumer_cancel_notify)
        channel.add_on_cancel_callback(lambda _frame: self._on_cancelled(epoch))
        channel.basic_qos(
            prefetch_count=self._wish.credit, callback=lambda _frame: self._start_consuming(channel, epoch)
        )

    def _start_consuming(self, channel: Any, epoch: int) -> None:
        if epoch != self._epoch or self._cancelled or not channel.is_open:
            return
        wish = self._wish
        stream = names.is_stream(wish.queue)
        channel.basic_consume(
            wish.queue,
            lambda _channel, method, properties, body: self._on_message(method, properties, body, epoch),
            exclusive=wish.exclusive,
            arguments={"x-stream-offset": self._cursor.offset} if stream else TELL_OF_DELETION,
            callback=lambda _frame: self._note_consuming(epoch),
        )

    def _note_consuming(self, epoch: int) -> None:
        self._refused_since = None
        self.attached.settle()
        if self._refused:
            self._refused = False
            back = BusState.CONNECTED if self._wish.vital else BusState.FOUND
            self._on_notice(Notice(back, self._wish.queue))
        if self._deleted:
            self._deleted = False
            # A stream tells by its content, as far as anything of it was stored.
            unproven = not self._wish.vital and self._cursor.mode is cursors.Mode.FOLLOWING
            if unproven or not names.is_stream(self._wish.queue):
                self._on_notice(Notice(BusState.RENEWED, self._wish.queue))
        if self._cursor.mode is cursors.Mode.VERIFYING:
            self._link.call_later(self._wish.verify_within, lambda: self._on_silence(epoch))
        if names.is_stream(self._wish.queue):
            self._heard = time.monotonic()
            self._link.call_later(self._wish.idle, lambda: self._on_idle(epoch))

    def _on_message(self, method: Any, properties: Any, body: bytes, epoch: int) -> None:
        if epoch != self._epoch or self._cancelled:
            return
        offset: int | None = None
        if names.is_stream(self._wish.queue):
            offset = int(properties.headers["x-stream-offset"])
            self._cursor, verdict = cursors.on_message(self._cursor, offset, body)
            self._heard = time.monotonic()
            if verdict is cursors.CursorVerdict.REWIND:
                self._rewind_to(self._cursor)
                return
            if verdict is cursors.CursorVerdict.DROP:
                self._channel.basic_ack(method.delivery_tag)
                return
            self._last = Position(offset, digest_of(body))
        self._unacked += 1
        spent = self._link.cpu_seconds()
        PHASES.add_stretch("receive", spent, cpu=spent, bytes=len(body))
        self._link.backlog.add_message((self, epoch), len(body))
        self._wish.on_delivery(
            Delivery(
                queue=self._wish.queue,
                key=method.routing_key,
                body=body,
                user=properties.user_id,
                offset=offset,
                tag=method.delivery_tag,
                epoch=epoch,
            )
        )
        self._link.backlog.pause_while_full()

    def _on_silence(self, epoch: int) -> None:
        if epoch != self._epoch or self._channel is None:
            return
        cursor, verdict = cursors.on_silence(self._cursor)
        if verdict is cursors.CursorVerdict.REWIND:
            self._rewind_to(cursor)

    def _rewind_to(self, cursor: cursors.Cursor) -> None:
        self._last = None  # it is no message of this stream
        self._on_notice(Notice(BusState.RENEWED, self._wish.queue))
        self._open_channel(cursor)

    def _seek_position(self, position: Position | None) -> None:
        self._last = None
        self._open_channel(cursors.attach(position, Start.FIRST))

    def _on_idle(self, epoch: int) -> None:
        """After long silence, that is not for want of credit, attach anew from the last message handed over."""
        if epoch != self._epoch or self._channel is None:
            return
        silent = time.monotonic() - self._heard
        if silent < self._wish.idle or self._unacked:
            wait = max(self._wish.idle - silent, 0.1 * self._wish.idle)
            self._link.call_later(wait, lambda: self._on_idle(epoch))
        elif self._last is not None:
            self._open_channel(cursors.attach(self._last, self._wish.start))
        elif self._wish.start is Start.FIRST or (self._wish.position is not None and self._wish.position() is not None):
            self._attach_to_queue()

    def _send_ack(self, delivery: Delivery) -> None:
        if delivery.epoch == self._epoch and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(delivery.tag)
            self._unacked -= 1

    def _channel_closed(self, reason: Any, epoch: int) -> None:
        if epoch != self._epoch or self._cancelled:
            return
        self._channel = None
        if not isinstance(reason, exceptions.ChannelClosedByBroker):
            return  # the connection went: on_down and on_up follow
        error = self._judge_closing(reason.reply_code, reason.reply_text)
        if error is not None:
            self._deleted = self._deleted or reason.reply_code == errors.NOT_FOUND
            if self._wish.vital and not self.attached.done:
                self.attached.settle(error)
                return
            self.attached.settle()
            if not self._refused:
                self._refused = True
                self._on_notice(
                    Notice(BusState.REFUSED, str(error), REFUSED_RETRY)
                    if self._wish.vital
                    else Notice(BusState.MISSING, self._wish.queue)
                )
        self._link.call_later(self._seconds_to_wait(reason.reply_code, error), lambda: self._attach_later(epoch))

    def _seconds_to_wait(self, code: int, error: KonsilError | None) -> float:
        """Seconds until the next try."""
        if error is None:
            return RETRY
        return SPARE_RETRY if code == errors.ACCESS_REFUSED and not self._wish.vital else REFUSED_RETRY

    def _judge_closing(self, code: int, text: str) -> KonsilError | None:
        """What the owner must learn of a closed channel, or None where trying again may help."""
        where = f"{self._link.address} {self._wish.queue}"
        if errors.in_exclusive_use(code, text):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            if now - self._refused_since < self._wish.lock_wait:
                return None
            return NameTaken(
                f"another process already holds {self._wish.queue!r}",
                where=self._link.address,
                advice="Stop the other one first, or give this one a name of its own",
            )
        if errors.still_recovering(code, text):
            return None
        if code in (errors.ACCESS_REFUSED, errors.NOT_FOUND):
            return errors.channel_error(code, text, where)
        if not self.attached.done and code == errors.PRECONDITION_FAILED:
            return RequestError(f"the broker refuses this consumer ({text})", where=where)
        return None

    def _on_cancelled(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._deleted = True
            self._attach_later(epoch)

    def _attach_later(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._attach_to_queue()

    def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.is_open:
            channel.close()
