"""Every experiment of a consortium as it goes on: history and live messages become stories, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from deploy.session.connection import BrokerSession, Heard
from deploy.session.history import HISTORY, HistoryReader
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_event
from messages import kinds, names
from messages.bus.base import Start
from messages.ground import naming
from messages.names import COORDINATOR

CAUGHT_UP = 1.0
"""Seconds without history until what happened before counts as read."""
LISTEN = 0.5
CLOCK_OFF = 60.0
"""Seconds between two clocks that are worth a word."""


class ConsortiumFollower:
    """Reads what a session hears, of all experiments.

    Args:
        clock: the observer's clock, seconds since 1970.

    Attributes:
        stories: by id; a new one takes an old one's place, none changes.
        heard_at: when a sign of the coordinator last came; for an auditor, when anything came.
        clock_ahead: seconds by which the coordinator's clock is before this one; None: not heard.
    """

    def __init__(self, session: BrokerSession, clock: Callable[[], float] = time.time) -> None:
        self._session, self._clock = session, clock
        self._reader = HistoryReader()
        role = session.profile.role
        self.hears_live = role in ("researcher", "viewer")
        self._queues = HISTORY if role == "researcher" else (names.AUDIT,)
        self.stories: dict[str, ExperimentStory] = {}
        self.heard_at: float | None = None
        self.caught_up = False
        self.clock_ahead: float | None = None
        self._history_at = self._since = clock()
        self._down = False

    @property
    def is_down(self) -> bool:
        """Whether the observer's own line to the broker is down."""
        return self._down

    def listen_from_start(self) -> None:
        """Have the session read all history, and live messages from now on."""
        if self.hears_live:
            self._session.listen_to(names.PROGRESS, start=Start.NEXT)
        self._session.listen_to(*self._queues)
        self._history_at = self._since = self._clock()

    def hear_next(self, within: float) -> bool:
        """Take the next message in; False where none came within so many seconds."""
        heard = self._session.next_heard(within)
        now = self._clock()
        self._note_line(now)
        if heard is None or heard.delivery.queue != names.PROGRESS:
            self.caught_up = self.caught_up or now - self._history_at > CAUGHT_UP
        if heard is None:
            return False
        if heard.delivery.queue == names.PROGRESS:
            self._take_live(heard, now)
        else:
            self._take_history(heard, now)
        return True

    def _take_history(self, heard: Heard, now: float) -> None:
        self._history_at = now
        if not self.hears_live:
            self.heard_at = now
        told: set[str] = set()
        for event in self._reader.events_of(heard):
            if event.experiment == naming.NO_EXPERIMENT:
                continue
            story = self.stories.get(event.experiment) or ExperimentStory(
                event.experiment, heard_since=self._since, hears_live=self.hears_live, down=self._down
            )
            self.stories[event.experiment] = tell_event(story, event)
            told.add(event.experiment)
        for name in told:
            checks, timers = self._reader.checks_of(name), self._reader.timers_of(name)
            self.stories[name] = replace(self.stories[name], checks=checks, timers=timers)

    def _take_live(self, heard: Heard, now: float) -> None:
        event = heard.event
        if event is None:
            return
        if event.sender == COORDINATOR and isinstance(event.body, kinds.Alive):
            self.heard_at, self.clock_ahead = now, event.time - now
        for name, story in self.stories.items():
            if not story.over:
                self.stories[name] = tell_event(story, event, now)

    def _note_line(self, now: float) -> None:
        """While the line is down, silence says nothing of the others; nor does it at once after that."""
        if (is_down := self._session.line.is_down) == self._down:
            return
        self._down = is_down
        self._since = self._since if is_down else now
        for name, story in self.stories.items():
            self.stories[name] = replace(story, down=is_down, heard_since=self._since)


class FollowingThread:
    """Follows on a thread of its own, until it is closed. `failed`: why it follows no longer."""

    def __init__(self, follower: ConsortiumFollower) -> None:
        self._follower = follower
        self._ends = threading.Event()
        self.failed = ""
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._ends.is_set():
                self._follower.hear_next(LISTEN)
        except Exception as error:  # noqa: BLE001 - the page stays, and says that it is blind
            self.failed = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        self._ends.set()
        self._thread.join(2 * LISTEN)
