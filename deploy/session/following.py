"""One experiment as it goes on: history and live messages of the broker become its story, for every viewer alike."""

from __future__ import annotations

import time
from collections.abc import Callable

from deploy.session.connection import BrokerSession, Heard
from deploy.session.history import HISTORY, HistoryReader
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all, tell_event
from messages import names
from messages.bus.base import Start


class Follower:
    """Reads what a session hears of one experiment.

    Args:
        clock: the observer's clock, seconds since 1970.

    Attributes:
        story: all that was heard so far.
        coordinator_at: when the coordinator last said that it lives; None: not yet.
        history_at: when history last came, or when listening began.
    """

    def __init__(self, session: BrokerSession, experiment: str, clock: Callable[[], float] = time.time) -> None:
        self._session, self._clock = session, clock
        self._reader = HistoryReader()
        self.story = ExperimentStory(experiment)
        self.coordinator_at: float | None = None
        self.history_at = clock()

    def listen_from_start(self) -> None:
        """Have the session read all history, and live messages from now on; an auditor reads the event log alone."""
        if self._session.profile.role == "researcher":
            self._session.listen_to(names.PROGRESS, start=Start.NEXT)
            self._session.listen_to(*HISTORY)
        else:
            self._session.listen_to(names.AUDIT)
        self.history_at = self._clock()

    def hear_next(self, within: float) -> Heard | None:
        """Take the next message into the story; None where none came within so many seconds."""
        heard = self._session.next_heard(within)
        now = self._clock()
        if heard is None:
            return None
        if heard.delivery.queue != names.PROGRESS:
            self.history_at = now
            self.story = tell_all(self.story, self._reader.events_of(heard, self.story.id))
        elif heard.event is not None:
            if heard.event.sender == names.COORDINATOR:
                self.coordinator_at = now
            self.story = tell_event(self.story, heard.event, now)
        return heard
