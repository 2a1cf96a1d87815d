"""The researcher's part of the demo: publish one experiment-start event, then watch until the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from deploy.cli.live import View
from deploy.session.connection import COORDINATOR_WITHIN, Session, no_coordinator
from deploy.session.history import HISTORY, Reader
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell, tell_all
from messages import codec, kinds, names
from messages.bus.base import Start
from messages.chain import MAX_ENTRY, Entry
from messages.experiment import Experiment
from messages.ground.errors import WorkFailed

LOG_WITHIN = 20.0
"""Seconds that `audit` may lag behind `downlink` at the end."""
LOOK_EVERY = 0.25
ENDING = ("completed", "failed", "aborted")
"""Names of the coordinator's decisions that end an experiment."""


def follow(
    session: Session, experiment: Experiment, view: View, check: Callable[[], None]
) -> tuple[ExperimentStory, list[Entry]]:
    """Start the experiment and show it until it is over; returns its story and its event log.

    Args:
        check: called often; raises where a process that must run has ended.

    Raises:
        Unreachable: the coordinator says nothing.
        WorkFailed: the event log's last entry does not come.
    """
    story, reader = ExperimentStory(experiment.id), Reader()
    entries: list[Entry] = []
    session.listen(names.PROGRESS, start=Start.NEXT)
    session.listen(*HISTORY)
    session.publish("experiment-start", kinds.ExperimentStart(experiment=experiment.plain()), experiment.id)
    published = time.monotonic()
    over: float | None = None
    log_ended = False
    coordinator_at: float | None = None
    try:
        while over is None or not log_ended:
            heard = session.next(LOOK_EVERY)
            now = time.time()
            if heard is not None and heard.delivery.queue == names.PROGRESS:
                if heard.event is not None:
                    coordinator_at = now if heard.event.sender == names.COORDINATOR else coordinator_at
                    story = tell(story, heard.event, now)
            elif heard is not None:
                story = tell_all(story, reader.events(heard, experiment.id))
                if heard.entry is not None and heard.entry.experiment == experiment.id:
                    entries.append(heard.entry)
                    log_ended = log_ended or _ends(heard.entry)
            if story.over and over is None:
                over = time.monotonic()
            if story.phase == "unknown" and time.monotonic() - published > COORDINATOR_WITHIN:
                raise no_coordinator(COORDINATOR_WITHIN)
            if over is not None and time.monotonic() - over > LOG_WITHIN:
                raise WorkFailed("the end of the event log did not come", where=names.AUDIT)
            check()
            view.show(story, now, coordinator_at)
    finally:
        view.close(story)
    return story, entries


def _ends(entry: Entry) -> bool:
    """Whether this is the entry that holds the experiment's end."""
    body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    return isinstance(body, dict) and any(
        isinstance(decision, dict) and decision.get("decision") in ENDING for decision in body.get("decisions") or []
    )
