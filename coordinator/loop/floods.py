"""What refused messages may write into the journal: so much a sender and hour, then only counts.

An event that is refused changes no state, so replay does not need it; the first ones are journaled because people ask
why. A broken or hostile login could fill the disk with more of them. Its events are still answered (receipt and
`refused`), and one entry at the end of the hour says how many of which reason were only counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST = 200
"""Entries of one sender in an hour."""
MOST_BYTES = 4 * 2**20
HOUR = 3600.0


@dataclass
class _Sender:
    since: float
    entries: int = 0
    bytes: int = 0
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
        """Whether a refused message of this size may be journaled; False: it is counted."""
        one = self._senders.setdefault(sender, _Sender(now))
        if one.entries < MOST and one.bytes + size <= MOST_BYTES:
            one.entries, one.bytes = one.entries + 1, one.bytes + size
            return True
        one.counted[reason] += 1
        return False

    def end_hours(self, now: float, *, all_: bool = False) -> Iterator[Flood]:
        """Hours that are over (or all), begun anew; those in which something was only counted are told."""
        for name, one in list(self._senders.items()):
            if all_ or not 0 <= now - one.since < HOUR:
                del self._senders[name]
                if one.counted:
                    yield Flood(name, one.since, dict(sorted(one.counted.items())))
