"""A story with one more event: the reducer itself."""

from __future__ import annotations

from collections.abc import Iterable

from deploy.story.changing import change_fields
from deploy.story.events import HANDLERS, event_sentence
from deploy.story.parts import Moment
from deploy.story.story import ExperimentStory
from messages import kinds
from messages.envelope import Event


def tell_event(story: ExperimentStory, event: Event, now: float | None = None) -> ExperimentStory:
    """The story with one more event; events of other experiments and repeated ones change nothing.

    Args:
        now: the observer's clock when the event came, seconds (live messages only; default: the event's time).
    """
    heard_at = event.time if now is None else now
    if isinstance(event.body, kinds.Alive):
        return story.with_alive(event.sender, event.body, heard_at)
    if isinstance(event.body, kinds.Progress):
        return story.with_progress(event, event.body, heard_at)
    if event.experiment != story.id:
        return story
    if event.id in story.seen or (handler := HANDLERS.get(type(event.body))) is None:
        return story
    told = handler(story, event, event.body)
    sentence = event_sentence(event, told.rounds_planned)
    moment = Moment(event.time, event.sender, sentence)
    return change_fields(told, seen=told.seen.set(event.id, True), moments=told.moments.add_moment(moment))


def tell_all(story: ExperimentStory, events: Iterable[Event]) -> ExperimentStory:
    """`tell_event` for each."""
    for event in events:
        story = tell_event(story, event)
    return story
