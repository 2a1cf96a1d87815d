"""Where each site was when it was last heard: kept with its events, and told when it says hello.

A site whose disk went back in time (a state folder out of a backup) goes on above what it said before. Else it would
say the same events in another way, and its chain would fork.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coordinator.core.state import ExperimentState, Standing
from messages import codec, kinds
from messages.envelope import Event
from messages.kinds.inbox import MOST_PARTS
from messages.trust.signatures import digest_payload

Place = tuple[int, int, str]
"""Incarnation and sequence number of an event, and SHA-256 (hex) of its payload."""
_KEY = "heard:"
NOWHERE: Place = (0, 0, "")


class LastWord:
    """The place of each site's newest signed history event. Main loop's thread.

    Args:
        recall: a value that the journal keeps.
    """

    def __init__(self, recall: Callable[[str], bytes | None]) -> None:
        self._recall = recall
        self._places: dict[str, Place] = {}

    def place_of(self, site: str) -> Place:
        """The site's place; `NOWHERE` where nothing signed was heard of it."""
        if site not in self._places:
            kept = self._recall(_KEY + site)
            self._places[site] = NOWHERE if kept is None else tuple(codec.unpack(kept))
        return self._places[site]

    def is_news(self, event: Event) -> bool:
        """Whether the event stands behind all that was heard of its sender."""
        return (event.incarnation, event.seq) > self.place_of(event.sender)[:2]

    def note_event(self, event: Event) -> Mapping[str, bytes]:
        """What the journal is to keep together with an event."""
        if not event.seq or (event.incarnation, event.seq) < self.place_of(event.sender)[:2]:
            return {}
        place = self._places[event.sender] = (event.incarnation, event.seq, digest_payload(event.raw))
        return {_KEY + event.sender: codec.pack(list(place))}

    def tell(self, site: str, states: Mapping[str, ExperimentState], *, reads_private: bool) -> kinds.LastHeard:
        """What the site is told.

        Args:
            reads_private: whether it knows `LastHeard.private`.
        """
        incarnation, seq, digest = self.place_of(site)
        joined = {name: state for name, state in states.items() if state.ended is None and _takes_part(state, site)}
        parts = {name: _part_of(joined[name], site) for name in sorted(joined)[:MOST_PARTS]}
        private = sorted(name for name, state in states.items() if _spends_at(state, site))
        told = private if reads_private and len(private) <= MOST_PARTS else None
        return kinds.LastHeard(incarnation=incarnation, seq=seq, digest=digest or None, parts=parts, private=told)


def _takes_part(state: ExperimentState, site: str) -> bool:
    member = state.members.get(site)
    return member is not None and member.standing is Standing.JOINED


def _spends_at(state: ExperimentState, site: str) -> bool:
    """Whether the site may have trained in it under differential privacy, over or not: a restored one has to know."""
    member = state.members.get(site)
    return member is not None and member.train > 0 and state.experiment.privacy.dp is not None


def _part_of(state: ExperimentState, site: str) -> kinds.PartHeard:
    """Of the round in hand, open or in the making; where work goes on from an earlier one, by that one's number."""
    round_ = state.round
    part = None if round_ is None else round_.parts.get(site)
    if round_ is None or part is None:
        return kinds.PartHeard()
    base, attempt = round_.base_of(site), 0 if part.update is None else part.update.attempt
    return kinds.PartHeard(
        round=base,
        opening=round_.opening if base == round_.number else 1,
        attempt=attempt,
        reported=part.reported or part.failed is not None,
    )
