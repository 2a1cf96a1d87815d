"""Stories out of what the broker or a journal keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from deploy.cli_connection import Heard, Session
from deploy.watch import ExperimentStory
from messages import codec, names
from messages.chain import MAX_ENTRY, Entry
from messages.envelope import Event, decode
from messages.errors import MalformedMessage, RequestError
from messages.names import RoutingKey

HISTORY = (names.DOWNLINK, names.AUDIT)
"""The coordinator's own events, and the sites' as the journal holds them."""


def events_in(entry: Entry) -> Iterator[Event]:
    """The events that an entry holds verbatim, wherever in its body they stand."""
    try:
        yield from _events(codec.unpack(entry.body, max_bytes=MAX_ENTRY))
    except MalformedMessage:
        return


def _events(value: Any) -> Iterator[Event]:
    if isinstance(value, bytes) and value[:1] == b"\x92":  # an event is a list of two
        try:
            yield decode(value)
        except MalformedMessage:
            return
    elif isinstance(value, dict):
        for item in value.values():
            yield from _events(item)
    elif isinstance(value, list):
        for item in value:
            yield from _events(item)


def events_of(heard: Heard, experiment: str | None = None) -> Iterator[Event]:
    """The history events in one message, of one experiment or of all."""
    if experiment is not None and RoutingKey.parse(heard.delivery.key).experiment != experiment:
        return
    if heard.event is not None:
        yield heard.event
    elif heard.entry is not None:
        yield from events_in(heard.entry)


def story_of(session: Session, experiment: str) -> ExperimentStory:
    """All that the broker keeps of one experiment up to now.

    Raises:
        RequestError: the broker knows no experiment of this id.
    """
    story = ExperimentStory(experiment)
    queues = HISTORY if session.profile.role == "researcher" else (names.AUDIT,)
    for heard in session.history(*queues):
        story = story.tell_all(events_of(heard, experiment))
    return known(story)


def known(story: ExperimentStory) -> ExperimentStory:
    """The story, if there is one; else RequestError."""
    if story.experiment is None and not story.over:
        raise RequestError(
            f"no experiment {story.id!r} is known here",
            advice="`konsil experiment list` shows those that are",
        )
    return story


def stories(heard: Iterable[Heard]) -> dict[str, ExperimentStory]:
    """The story of each experiment that the messages speak of, by id."""
    found: dict[str, ExperimentStory] = {}
    for message in heard:
        for event in events_of(message):
            if event.experiment != names.NO_EXPERIMENT:
                story = found.get(event.experiment) or ExperimentStory(event.experiment)
                found[event.experiment] = story.tell(event)
    return {identity: story for identity, story in sorted(found.items()) if story.phase != "unknown"}
