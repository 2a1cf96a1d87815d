"""Whether another agent lives under this site's name, heard while the inbox is waited for.

The broker holds an inbox for a dead agent until its connection times out, so a new one waits that long. A living one
says `alive` every few seconds: two of its pulses end the wait. Pulses from before the wait are not counted: they may be
this site's own of an earlier start, and copied. Were none counted at all, the inbox's lock would decide, only later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from messages.bus.base import Bus, Delivery, Start, Subscription
from messages.envelope import check_origin, decode_event
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError, MalformedMessage
from messages.kinds import Alive
from messages.names import PROGRESS
from messages.trust.verifier import Verifier

ENOUGH = 2
"""Pulses: the first may be the last word of one that just died."""


class TwinWatch:
    """Listens to `progress` for the block of `listen`.

    Args:
        on_found: called once, on a thread of the bus.

    Attributes:
        found: whether another agent under this name was heard.
    """

    def __init__(
        self, bus: Bus, verifier: Verifier, consortium: str, site: str, on_found: Callable[[], None], clock: Clock
    ) -> None:
        self._bus, self._consortium, self._site, self._on_found = bus, consortium, site, on_found
        self._verifier, self._clock = verifier, clock
        self._subscription: Subscription | None = None
        self._pulses: set[str] = set()
        self._began = clock.wall()
        self.found = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Hear pulses; a broker that does not let it listen leaves the wait as long as it was."""
        with contextlib.suppress(KonsilError):
            self._subscription = self._bus.subscribe(PROGRESS, self._hear, start=Start.NEXT, vital=False)
        try:
            yield
        finally:
            if self._subscription is not None:
                self._subscription.cancel()

    def _hear(self, delivery: Delivery) -> None:
        if self._subscription is not None:
            self._subscription.ack(delivery)
        try:
            event = decode_event(delivery.body)
            check_origin(event, delivery.key, delivery.user, self._consortium)
            self._verifier.check_event(event, delivery.queue, self._clock.wall())
        except MalformedMessage:
            return
        if event.sender != self._site or not isinstance(event.body, Alive) or event.time <= self._began:
            return
        self._pulses.add(event.id)
        if len(self._pulses) >= ENOUGH and not self.found:
            self.found = True
            self._on_found()
