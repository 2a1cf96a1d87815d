"""Where each site was when it was last heard: kept with its events, and told when it says hello.

A site whose disk went back in time (a state folder out of a backup) goes on above what it said before. Else it would
say the same events in another way, and its chain would fork.

A place is kept by the key that signed it, and counts as long as that key is not revoked: so whoever had a site's key
moves it no longer, once the operator has given the site another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

from coordinator.core.state import ExperimentState, Standing
from messages import codec, kinds
from messages.envelope import Event
from messages.kinds.inbox import MOST_PARTS
from messages.trust.chains import MOST_LEAP, MOST_PLACE
from messages.trust.signatures import KEY, digest_payload

Place = tuple[int, int, str]
"""Incarnation and sequence number of an event, and SHA-256 (hex) of its payload."""
_BEFORE, _BY_KEY = "heard:", "heard-by:"
"""Where the journal keeps a site's place: up to vocabulary 6 one of all its keys, then one of each."""
NOWHERE: Place = (0, 0, "")


def _nobody_asked(_site: str) -> None:
    return None


class LastWord:
    """The place of each site's newest signed history event. Main loop's thread.

    Args:
        recall: a value that the journal keeps.
        speaking: names of a site's keys that are not revoked; None: all count.
    """

    def __init__(
        self,
        recall: Callable[[str], bytes | None],
        speaking: Callable[[str], Set[str] | None] = _nobody_asked,
    ) -> None:
        self._recall, self._speaking = recall, speaking
        self._places: dict[str, dict[str, Place]] = {}

    def _by_key(self, site: str) -> dict[str, Place]:
        if site not in self._places:
            before, kept = self._recall(_BEFORE + site), self._recall(_BY_KEY + site)
            found = {} if before is None else {"": codec.unpack(before)}
            found |= {} if kept is None else codec.unpack(kept)
            # Up to vocabulary 6 a place could be beyond all that can be told.
            places = {key: (place[0], place[1], place[2]) for key, place in found.items()}
            self._places[site] = {key: place for key, place in places.items() if max(place[:2]) < MOST_PLACE}
        return self._places[site]

    def place_of(self, site: str) -> Place:
        """The site's place; `NOWHERE` where nothing signed was heard of it."""
        keys = self._speaking(site)
        return max(
            (place for key, place in self._by_key(site).items() if not key or keys is None or key in keys),
            default=NOWHERE,
            key=lambda place: place[:2],
        )

    def is_news(self, event: Event) -> bool:
        """Whether the event stands behind all that was heard of its sender."""
        return (event.incarnation, event.seq) > self.place_of(event.sender)[:2]

    def leaps(self, event: Event, *, is_site: bool) -> bool:
        """Whether an event stands beyond all places, or a site's further behind all that was heard of it than any site
        ever started. A researcher's incarnation is a time, in milliseconds.

        Args:
            is_site: whether its sender is one.
        """
        if max(event.incarnation, event.seq) >= MOST_PLACE:
            return True
        return is_site and event.incarnation > self.place_of(event.sender)[0] + MOST_LEAP

    def note_event(self, event: Event) -> Mapping[str, bytes]:
        """What the journal is to keep together with an event."""
        places, key = self._by_key(event.sender), str(event.ext.get(KEY))
        if not event.seq or (event.incarnation, event.seq) < places.get(key, NOWHERE)[:2]:
            return {}
        places[key] = (event.incarnation, event.seq, digest_payload(event.raw))
        keys = self._speaking(event.sender)
        kept = {one: place for one, place in places.items() if one and (keys is None or one in keys)}
        return {_BY_KEY + event.sender: codec.pack({one: list(place) for one, place in kept.items()})}

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
