"""Stories out of what the broker or a journal keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deploy.session.connection import BrokerSession, Heard
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all, tell_event
from messages import codec, names
from messages.chain import MAX_ENTRY, Entry
from messages.envelope import Author, Event, decode_stored
from messages.ground import naming
from messages.ground.errors import MalformedMessage, RequestError
from messages.names import RoutingKey

HISTORY = (names.DOWNLINK, names.AUDIT)
"""The coordinator's own events, and the sites' as the journal holds them."""


class HistoryReader:
    """Reads events out of messages and entries, one after the other.

    An entry of the journal holds what came from outside verbatim, and decisions; the coordinator's own events follow
    from the decisions (`coordinator.core.effects`), so that a journal alone tells the whole story. An event that the
    coordinator refused is part of no round and is left out.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._broken: set[str] = set()

    def events_of(self, heard: Heard, experiment: str | None = None) -> Iterator[Event]:
        """The history events in one message, of one experiment or of all."""
        if experiment is not None and RoutingKey.parse(heard.delivery.key).experiment != experiment:
            return
        if heard.event is not None:
            yield heard.event
        elif heard.entry is not None:
            yield from self.of_entry(heard.entry)

    def timers_of(self, experiment: str) -> Mapping[str, float] | None:
        """The coordinator's timers of an experiment after the entries so far; None where they do not tell."""
        state = self._states.get(experiment)
        if state is None or experiment in self._broken:
            return None
        return {timer.value: moment for timer, moment in state.timers.items()}

    def of_entry(self, entry: Entry) -> Iterator[Event]:
        """The events that an entry holds, and those that followed from it."""
        try:
            body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
        except MalformedMessage:
            return
        if not isinstance(body, dict) or not isinstance(body.get("decisions"), list):
            return
        refused = {
            decision.get("event")
            for decision in body["decisions"]
            if isinstance(decision, dict) and decision.get("decision") == "refused"
        }
        yield from (event for event in _find_events(body.get("input")) if event.id not in refused)
        yield from self._announced_events(entry, body["decisions"])

    def _announced_events(self, entry: Entry, decided: list[Any]) -> Iterator[Event]:
        from coordinator.core import decisions
        from coordinator.core.effects import Announce, effects
        from coordinator.core.evolve import evolve

        if entry.experiment in self._broken:
            return
        author = Author("none", names.COORDINATOR)
        try:
            for plain in decided:
                decision = decisions.from_plain(plain)
                state = evolve(self._states.get(entry.experiment), decision)
                self._states[entry.experiment] = state
                for effect in effects(state, decision):
                    if isinstance(effect, Announce):
                        what = effect.what
                        yield author.write_event(
                            what.kind,
                            what.body,
                            time=entry.time,
                            experiment=what.experiment,
                            round_number=what.round,
                            attempt=what.attempt,
                        )
        except (ValueError, KeyError, AttributeError):
            # Its beginning is not here (evicted from the stream): what stands in the entries still counts.
            self._broken.add(entry.experiment)


def _find_events(value: Any) -> Iterator[Event]:
    if isinstance(value, bytes) and value[:1] == b"\x92":  # an event is a list of two
        try:
            yield decode_stored(value)
        except MalformedMessage:
            return
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find_events(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_events(item)


def story_of(session: BrokerSession, experiment: str) -> ExperimentStory:
    """All that the broker keeps of one experiment up to now.

    Raises:
        RequestError: the broker knows no experiment of this id.
    """
    story, reader = ExperimentStory(experiment), HistoryReader()
    queues = HISTORY if session.profile.role == "researcher" else (names.AUDIT,)
    for heard in session.read_history(*queues):
        story = tell_all(story, reader.events_of(heard, experiment))
    return require_known(story)


def story_of_entries(entries: Iterable[Entry], experiment: str) -> ExperimentStory:
    """The story that a journal or an exported log tells."""
    story, reader = ExperimentStory(experiment), HistoryReader()
    for entry in entries:
        if entry.experiment == experiment:
            story = tell_all(story, reader.of_entry(entry))
    return story


def require_known(story: ExperimentStory) -> ExperimentStory:
    """The story, if there is one; else RequestError."""
    if story.experiment is None and not story.over:
        raise RequestError(
            f"no experiment {story.id!r} is known here",
            advice="`konsil experiment list` shows those that are",
        )
    return story


def stories_of(heard: Iterable[Heard]) -> dict[str, ExperimentStory]:
    """The story of each experiment that the messages speak of, by id."""
    found: dict[str, ExperimentStory] = {}
    reader = HistoryReader()
    for message in heard:
        for event in reader.events_of(message):
            if event.experiment != naming.NO_EXPERIMENT:
                story = found.get(event.experiment) or ExperimentStory(event.experiment)
                found[event.experiment] = tell_event(story, event)
    return {identity: story for identity, story in sorted(found.items()) if story.phase != "unknown"}
