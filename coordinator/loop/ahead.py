"""Events that came before their round: a journal that was restored, or cut, is older than what sites say.

What is held is the message as it came, within bounds by sender and in all: whoever holds a login could else fill the
memory with events of rounds that never come. What is beyond them gets no receipt, so its sender says it again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from messages.bus.base import Delivery

MOST_OF_A_SENDER = 4 * 2**20
"""Bytes: 1,000 events of a site, or one of the largest that there is."""
MOST = 64 * 2**20
"""Bytes of all senders together."""


@dataclass(frozen=True, slots=True)
class _Held:
    sender: str
    delivery: Delivery


class Ahead:
    """Experiment → what waits for it to come to a later round, in the order in which it came."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, _Held]] = {}
        self._bytes: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._held)

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._held

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._bytes.total()

    def hold_event(self, experiment: str, identity: str, sender: str, delivery: Delivery) -> bool:
        """Keep an event until its round; True where it is kept, now or before. It is said again until its receipt."""
        if identity in self._held.get(experiment, {}):
            return True
        size = len(delivery.body)
        if self._bytes[sender] + size > MOST_OF_A_SENDER or self.size + size > MOST:
            return False
        self._held.setdefault(experiment, {})[identity] = _Held(sender, delivery)
        self._bytes[sender] += size
        return True

    def take_events(self, experiment: str) -> list[Delivery]:
        """What waited for the experiment; it is held no longer."""
        taken = list(self._held.pop(experiment, {}).values())
        for one in taken:
            self._bytes[one.sender] -= len(one.delivery.body)
        self._bytes += Counter()  # only what is above nothing
        return [one.delivery for one in taken]
