"""The researcher's part of the demo: publish one experiment-start event, then watch until the end."""

from __future__ import annotations

from collections.abc import Callable

from deploy.cli.live import View
from deploy.session.connection import COORDINATOR_WITHIN, BrokerSession, no_coordinator
from deploy.session.following import Follower
from deploy.story.story import ExperimentStory
from messages import codec, kinds, names
from messages.chain import MAX_ENTRY, Entry
from messages.experiment import Experiment
from messages.ground.errors import WorkFailed

LOG_WITHIN = 20.0
"""Seconds that `audit` may lag behind `downlink` at the end."""
LOOK_EVERY = 0.25
ENDING = ("completed", "failed", "aborted")
"""Names of the coordinator's decisions that end an experiment."""


def follow_experiment(
    session: BrokerSession,
    experiment: Experiment,
    view: View,
    check: Callable[[ExperimentStory], None],
    look_every: float = LOOK_EVERY,
) -> ExperimentStory:
    """Start the experiment and show it until it is over and its log has come whole; returns its story.

    Args:
        check: called often with the story so far; raises where what must run has ended.
        look_every: seconds between two looks where nothing comes.

    Raises:
        Unreachable: the coordinator says nothing.
        WorkFailed: the event log's last entry does not come.
    """
    clock = session.clock
    follower = Follower(session, experiment.id, clock.wall)
    follower.listen_from_start()
    session.publish_event("experiment-start", kinds.ExperimentStart(experiment=experiment.as_plain()), experiment.id)
    published = clock.monotonic()
    over: float | None = None
    log_ended = False
    try:
        while over is None or not log_ended:
            heard = follower.hear_next(look_every)
            if heard is not None and heard.entry is not None and heard.entry.experiment == experiment.id:
                log_ended = log_ended or _ends_experiment(heard.entry)
            story = follower.story
            if story.over and over is None:
                over = clock.monotonic()
            if story.phase == "unknown" and clock.monotonic() - published > COORDINATOR_WITHIN:
                raise no_coordinator(COORDINATOR_WITHIN)
            if over is not None and clock.monotonic() - over > LOG_WITHIN:
                raise WorkFailed("the end of the event log did not come", where=names.AUDIT)
            check(story)
            view.show_story(story, clock.wall(), follower.coordinator_at)
    finally:
        view.close_view(follower.story)
    return follower.story


def _ends_experiment(entry: Entry) -> bool:
    """Whether this is the entry that holds the experiment's end."""
    body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    return isinstance(body, dict) and any(
        isinstance(decision, dict) and decision.get("decision") in ENDING for decision in body.get("decisions") or []
    )
