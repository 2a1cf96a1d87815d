"""The coordinator's own word, read back: `downlink`, `audit` and `models` hold what it alone can publish again.

Others read these streams, and cannot know what should be in them. So the coordinator reads each, too, remembers its
last message, and throws the content away: that a stream is gone shows at once (the broker cancels the consumer), that
it is another one by the message at the stored position, after each reconnect, start, and silence (`bus.consumer`).
Read from the end on, so that nothing is fetched twice; a model comes back once, when the experiment is complete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial

from messages.bus.base import Bus, Delivery, Position, Start, Subscription, digest_of
from messages.names import AUDIT, DOWNLINK, MODELS

OWN_WORD: Mapping[str, int] = {DOWNLINK: 64, AUDIT: 256, MODELS: 2}
"""Queue → credit: a chunk of a model is large, and holds up no update on its way in."""


class ReadingBack:
    """Hears on threads of the bus; positions are taken by the main loop.

    Args:
        stored: where a queue was read to, as the journal has it. Any thread.
    """

    def __init__(self, stored: Callable[[str], Position | None]) -> None:
        self._stored = stored
        self._lock = threading.Lock()
        self._read: dict[str, Position | None] = {}
        self._unsaved: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._early: list[Delivery] = []
        """What came before `subscribe_to_all` had returned, which is what gives its credit back."""

    def subscribe_to_all(self, bus: Bus) -> None:
        """Read all of them from now on; one that is not there is told by the bus (MISSING)."""
        for queue, credit in OWN_WORD.items():
            subscription = bus.subscribe(
                queue,
                self._take_delivery,
                position=partial(self._position_of, queue),
                start=Start.NEXT,
                credit=credit,
                vital=False,
            )
            with self._lock:
                self._subscriptions[queue] = subscription
                early, self._early = self._early, []
            for delivery in early:
                subscription.ack(delivery)

    def unsaved_positions(self) -> dict[str, Position]:
        """Where they were read to, as far as that is not stored yet; they count as stored then."""
        with self._lock:
            taken = {queue: read for queue in self._unsaved if (read := self._read[queue]) is not None}
            self._unsaved.clear()
        return taken

    def note_renewed(self, queue: str) -> None:
        """The bus said that this is not the stream that was read: while it stays empty that is no news any more."""
        with self._lock:
            self._read[queue] = None

    def cancel(self) -> None:
        """Stop reading."""
        for subscription in self._subscriptions.values():
            subscription.cancel()

    def _position_of(self, queue: str) -> Position | None:
        with self._lock:
            if queue in self._read:
                return self._read[queue]
        return self._stored(queue)

    def _take_delivery(self, delivery: Delivery) -> None:
        if delivery.offset is not None:
            position = Position(delivery.offset, digest_of(delivery.body))
            with self._lock:
                self._read[delivery.queue] = position
                self._unsaved.add(delivery.queue)
                subscription = self._subscriptions.get(delivery.queue)
                if subscription is None:
                    self._early.append(delivery)
            if subscription is not None:
                subscription.ack(delivery)
