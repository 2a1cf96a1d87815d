"""One experiment as it goes on: history and live messages of the broker become its story, for every viewer alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

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
        story: all that was heard so far, and what can be heard at all.
        history_at: when history last came, or when listening began.
    """

    def __init__(self, session: BrokerSession, experiment: str, clock: Callable[[], float] = time.time) -> None:
        self._session, self._clock = session, clock
        self._reader = HistoryReader()
        self.story = ExperimentStory(experiment)
        self._hears_live = session.profile.role in ("researcher", "viewer")
        self.history_at = clock()

    @property
    def coordinator_at(self) -> float | None:
        """When the coordinator last said that it lives; None: not yet."""
        return self.story.coordinator_at

    def listen_from_start(self) -> None:
        """Have the session read all history, and live messages from now on; an auditor reads the event log alone."""
        if self._hears_live:
            self._session.listen_to(names.PROGRESS, start=Start.NEXT)
        self._session.listen_to(*(HISTORY if self._session.profile.role == "researcher" else (names.AUDIT,)))
        self.history_at = self._clock()
        self.story = replace(self.story, heard_since=self.history_at, hears_live=self._hears_live)

    def hear_next(self, within: float) -> Heard | None:
        """Take the next message into the story; None where none came within so many seconds."""
        heard = self._session.next_heard(within)
        now = self._clock()
        self._note_line(now)
        if heard is None:
            return None
        if heard.delivery.queue != names.PROGRESS:
            self.history_at = now
            told = tell_all(self.story, self._reader.events_of(heard, self.story.id))
            timers, checks = self._reader.timers_of(self.story.id), self._reader.checks_of(self.story.id)
            self.story = replace(told, timers=timers, checks=checks)
        elif heard.event is not None:
            self.story = tell_event(self.story, heard.event, now)
        return heard

    def _note_line(self, now: float) -> None:
        """While the observer's own line is down, silence says nothing of the others; nor does it at once after that."""
        is_down = self._session.line.is_down
        if is_down != self.story.down:
            since = self.story.heard_since if is_down else now
            self.story = replace(self.story, down=is_down, heard_since=since)
