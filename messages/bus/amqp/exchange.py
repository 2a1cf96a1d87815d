"""Which exchange a party publishes to: its own, or on a broker of topology 1 the one that all share.

Definitions are loaded before the parties are upgraded, or after: so each new channel asks. A passive exchange.declare
(AMQP 0-9-1, section 1.6.2.1) needs no permission, and answers 404 where there is no such exchange.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pika import exceptions

from messages import names
from messages.bus.amqp import errors


def find_exchange(connection: Any, party: str, on_found: Callable[[str], None]) -> None:
    """Ask for the party's exchange, and call with its name; not called where the connection breaks before."""
    own = names.exchange_of(party)

    def opened(channel: Any) -> None:
        channel.add_on_close_callback(closed)
        channel.exchange_declare(own, passive=True, callback=lambda _frame: found(channel))

    def found(channel: Any) -> None:
        channel.close()
        on_found(own)

    def closed(_channel: Any, reason: Any) -> None:
        if isinstance(reason, exceptions.ChannelClosedByBroker):
            on_found(names.OLD_EXCHANGE if reason.reply_code == errors.NOT_FOUND else own)

    connection.channel(on_open_callback=opened)
