"""Each party's own chain: a signed history event names the one that its author wrote before it.

So what is held back shows: an event whose predecessor has not come. What is said again comes later, so a predecessor
is missed for a while first. Two events that follow the same one show as well: their author, or its disk, went back in
time. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

PATIENCE = 180.0
"""Seconds until what did not come is told: an outbox says it again every 30."""
REMEMBERED = 128
"""Events of each author."""
MOST_PLACE = 2**53
"""Above all incarnations and sequence numbers that are believed: `kinds.LastHeard` holds no more, and one above the
highest still fits. A decoder takes more, as it always did."""
MOST_LIFT = 2**20
"""Starts above its own count to which a site lets itself be told that it was heard. Nobody starts so often."""
MOST_LEAP = 2 * MOST_LIFT
"""Starts above the last one heard from which on an event is not believed. A site that was lifted stays below it, so
that nobody is locked out by what somebody with the coordinator's key told it."""


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """What an author's chain shows.

    Attributes:
        what: "missing": no event with this digest has come; "forked": two events follow it.
        digest: SHA-256 (hex) of the event's payload.
        incarnation, seq: of the event that names it.
    """

    what: str
    sender: str
    digest: str
    incarnation: int
    seq: int


@dataclass
class _Chain:
    heard: OrderedDict[str, str | None] = field(default_factory=OrderedDict)
    """Digest → id of the event that follows it; None: none yet."""
    missed: dict[str, tuple[float, ChainBreak]] = field(default_factory=dict)


class Chains:
    """Follows the chain of each author. The first event of one says nothing of those before it."""

    def __init__(self) -> None:
        self._chains: dict[str, _Chain] = {}

    def note_event(
        self, sender: str, place: tuple[int, int], identity: str, digest: str, after: str | None, now: float
    ) -> ChainBreak | None:
        """Take an event, new or said again; returns a fork that it shows.

        Args:
            place: incarnation and sequence number.
            identity: the event's id: what is signed anew follows the same one, and is the same event.
            digest: of its payload.
            after: digest of the one before it; None: it begins a chain.
        """
        chain = self._chains.get(sender)
        first = chain is None
        if chain is None:
            chain = self._chains[sender] = _Chain()
        chain.missed.pop(digest, None)
        chain.heard.setdefault(digest, None)
        found: ChainBreak | None = None
        if after is not None and not first:
            if after not in chain.heard:
                chain.missed.setdefault(after, (now, ChainBreak("missing", sender, after, *place)))
            elif chain.heard[after] not in (None, identity):
                found = ChainBreak("forked", sender, after, *place)
        if after is not None:
            chain.heard[after] = identity
        while len(chain.heard) > REMEMBERED:
            chain.heard.popitem(last=False)
        return found

    def note_again(self, sender: str, identity: str, digest: str, after: str | None) -> None:
        """Take an event whose facts were heard before, in this place or another one: what follows it is not missed.

        Nothing is found by it: what came before it may be long forgotten.
        """
        chain = self._chains.get(sender)
        if chain is None:
            return
        chain.missed.pop(digest, None)
        chain.heard.setdefault(digest, None)
        if after is not None and chain.heard.get(after, identity) is None:
            chain.heard[after] = identity

    def list_missing(self, now: float) -> list[ChainBreak]:
        """What has been missed for long; each is told once."""
        found: list[ChainBreak] = []
        for chain in self._chains.values():
            due = [digest for digest, (since, _finding) in chain.missed.items() if now - since >= PATIENCE]
            found += [chain.missed.pop(digest)[1] for digest in due]
        return found
