"""What a sender's messages may write into the journal: so much an hour, then they are only counted.

Two budgets. What is refused, or changes nothing, replay does not need; the first ones are journaled because people ask
why. What is accepted changes a state, so beyond its budget it is not taken at all. What is only counted gets neither
answer nor receipt: an honest site says it again every 30 s, and the next hour takes it. One entry at the end of the
hour says how many of which reason were only counted.

An honest site comes nowhere near: a round costs it two events and 5 to 20 kB of entries (net of 60 tensors, scores of
200 cases), so that 10 MiB are 500 rounds an hour and more. Both together, and the entries that the coordinator's own
workers add, stay below 16 MiB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST = 200
"""Entries of one sender in an hour that change nothing."""
MOST_BYTES = 4 * 2**20
"""Their bytes."""
MOST_TAKEN_BYTES = 10 * 2**20
"""Bytes of one sender in an hour that change a state, and of what is announced because of them."""
OWN_BYTES = 256 * 2**10
"""Bytes of one sender in an hour that one experiment may have in any case: another one's large manifest, which each of
its events repeats, does not use up the hour."""
ENTRY_BYTES = 512
"""What an entry costs beside its body: hashes, an index, the id that is remembered, the receipt."""
HOUR = 3600.0
ACCEPTED, SKIPPED = "accepted", "skipped"
"""Counted beside the codes of refusals: what would have been accepted, and what was not even read."""


@dataclass
class _Sender:
    since: float
    entries: int = 0
    bytes: int = 0
    taken: int = 0
    own: Counter[str] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Flood:
    """What of a sender was only counted since a moment (the coordinator's clock)."""

    sender: str
    since: float
    counted: dict[str, int]


class Floods:
    """Keeps count by sender; a sender is a login that the broker has checked, so there are only so many."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}

    def may_journal(self, sender: str, reason: str, size: int, now: float) -> bool:
        """Whether a message that changes nothing may be journaled, with an entry of this size; False: it is counted.

        The first of an hour may, however large it is: what never fits would be said again for ever.
        """
        one = self._senders.setdefault(sender, _Sender(now))
        if one.entries < MOST and (not one.bytes or one.bytes + size <= MOST_BYTES):
            one.entries, one.bytes = one.entries + 1, one.bytes + size
            return True
        one.counted[reason] += 1
        return False

    def may_take(self, sender: str, size: int, now: float, experiment: str | None = None) -> bool:
        """Whether a message that changes a state may be taken, with an entry of this size; False: it is counted.

        Args:
            experiment: that it is of, where that is known: there are only so many.
        """
        one, cost = self._senders.setdefault(sender, _Sender(now)), size + ENTRY_BYTES
        if one.taken + cost <= MOST_TAKEN_BYTES:
            one.taken += cost
        elif experiment is None or one.own[experiment] + cost > OWN_BYTES:
            one.counted[ACCEPTED] += 1
            return False
        if experiment is not None:
            one.own[experiment] += cost
        return True

    def count_messages(self, sender: str, reason: str, count: int, now: float) -> None:
        """Count messages of which nothing is kept."""
        self._senders.setdefault(sender, _Sender(now)).counted[reason] += count

    def count_of(self, sender: str, reason: str) -> int:
        """How many were only counted in this hour so far."""
        one = self._senders.get(sender)
        return 0 if one is None else one.counted[reason]

    def end_hours(self, now: float, *, all_: bool = False) -> Iterator[Flood]:
        """Hours that are over (or all), begun anew; those in which something was only counted are told."""
        for name, one in list(self._senders.items()):
            if all_ or not 0 <= now - one.since < HOUR:
                del self._senders[name]
                if one.counted:
                    yield Flood(name, one.since, dict(sorted(one.counted.items())))
