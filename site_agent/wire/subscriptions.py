"""What the agent listens to, from where it was left, and the acknowledging of what was stored."""

from __future__ import annotations

from collections.abc import Callable

from messages.bus.base import Bus, Delivery, Subscription
from messages.names import DOWNLINK, GLOBAL, inbox_of
from site_agent.disk.spool import Spool


class Subscriptions:
    """The agent's queues.

    Args:
        post: hands a closure to the main loop.
    """

    def __init__(self, bus: Bus, spool: Spool, post: Callable[[Callable[[], None]], None]) -> None:
        self._bus, self._spool, self._post = bus, spool, post
        self._open: dict[str, Subscription] = {}

    def attach_inbox(self, site: str, event: Callable[[Delivery], None]) -> None:
        """Take the inbox, the lock of this site's name.

        Args:
            event: called on the main loop with a delivery.

        Raises:
            NameTaken: another agent holds the inbox.
        """
        self._subscribe_to(inbox_of(site), event, exclusive=True)

    def attach_streams(
        self,
        event: Callable[[Delivery], None],
        chunk: Callable[[Delivery, Callable[[Delivery], None]], None],
    ) -> None:
        """Read the streams from where they were left.

        Args:
            event: called on the main loop with a delivery of `downlink`.
            chunk: called on a thread of the bus with a delivery of `global`, and with what acknowledges it.
        """
        self._subscribe_to(DOWNLINK, event)
        self._open[GLOBAL] = self._bus.subscribe(
            GLOBAL, lambda delivery: chunk(delivery, self.acknowledge), position=lambda: self._spool.position_of(GLOBAL)
        )

    def _subscribe_to(self, name: str, event: Callable[[Delivery], None], *, exclusive: bool = False) -> None:
        self._open[name] = self._bus.subscribe(
            name,
            lambda delivery: self._post(lambda: event(delivery)),
            position=None if exclusive else lambda: self._spool.position_of(name),
            exclusive=exclusive,
        )

    def acknowledge(self, delivery: Delivery) -> None:
        """A delivery is dealt with. Any thread."""
        subscription = self._open.get(delivery.queue)
        if subscription is None:  # delivered before `subscribe` returned: its turn comes again
            self._post(lambda: self.acknowledge(delivery))
            return
        subscription.ack(delivery)
