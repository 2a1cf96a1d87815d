"""Asking the broker whether a stream takes messages yet, before the first one is published on a connection.

RabbitMQ listens some tenths of a second before its streams have chosen their writers after a restart, and what is
published to a stream in that time is confirmed and dropped (seen with 3.10.8). A passive queue.declare (AMQP 0-9-1,
section 1.7.2.1) needs no permission, and answers 404 "down or inaccessible" until the stream is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pika import exceptions

from messages import kinds, names
from messages.bus.amqp import errors
from messages.bus.amqp.link import Link

ASK_AGAIN = 0.25


def stream_of(key: str) -> str | None:
    """The stream that a routing key leads to; None for an inbox and for kinds that we do not know."""
    kind, sender = [*key.split("."), ""][:2]
    route = kinds.ROUTES.get(kind)
    if route is None or route == "inbox":
        return None
    return names.update_queue(sender) if route == "update" else route


class Readiness:
    """Which streams were found ready on the present connection; I/O thread only."""

    def __init__(self, link: Link, on_ready: Callable[[], None]) -> None:
        self._link = link
        self._on_ready = on_ready
        self._ready: set[str] = set()
        self._asked: set[str] = set()

    def forget_all(self) -> None:
        """The connection went: what was ready may not be any more."""
        self._ready.clear()
        self._asked.clear()

    def check_stream(self, key: str) -> bool:
        """Whether the key's stream is known to be ready; if not, ask, and call `on_ready` once it is."""
        stream = stream_of(key)
        if stream is None or stream in self._ready:
            return True
        if stream not in self._asked:
            self._asked.add(stream)
            self._ask_broker(stream)
        return False

    def _ask_broker(self, stream: str) -> None:
        connection = self._link.connection
        if connection is None or not connection.is_open or stream not in self._asked:
            return

        def opened(channel: Any) -> None:
            channel.add_on_close_callback(closed)
            channel.queue_declare(stream, passive=True, callback=lambda _frame: found(channel))

        def found(channel: Any) -> None:
            self._mark_ready(stream)
            channel.close()

        def closed(_channel: Any, reason: Any) -> None:
            if not isinstance(reason, exceptions.ChannelClosedByBroker):
                return
            if errors.still_recovering(reason.reply_code, reason.reply_text):
                self._link.call_later(ASK_AGAIN, lambda: self._ask_broker(stream))
            else:
                self._mark_ready(stream)  # it does not exist: publishing will tell

        connection.channel(on_open_callback=opened)

    def _mark_ready(self, stream: str) -> None:
        if stream in self._asked:
            self._ready.add(stream)
            self._on_ready()
