"""Whether a site is there, and whether its work moves: the one judgement for the live view, the log and the metrics.

Absent, stuck and slow are three different things: an absent site gives no sign of life; a stuck one lives, but its
work has not moved for long; a slow one moves, but will not be done in time. Pure: times are the observer's clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

ABSENT_AFTER = 20.0
"""Seconds without a sign of life (alive comes every 5 s) until a site counts as absent."""
STUCK_AFTER = 120.0
"""Seconds without progress, while alive, until a working site counts as stuck."""
SLOW_FACTOR = 2.0
"""A site whose remaining time is more than this many times the median of the others is slow."""
SLOW_SECONDS = 10.0
"""And longer than it by at least this."""


class Liveness(StrEnum):
    """What is seen of a site. The first three are what somebody should look at."""

    ABSENT = "absent"
    STUCK = "stuck"
    SLOW = "slow"
    IDLE = "idle"
    PREPARING = "preparing"
    FETCHING = "fetching"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SENDING = "sending"
    PAUSED = "paused"
    DRAINING = "draining"
    OUTSIDE_HOURS = "outside-hours"


WORKING: Final = frozenset(
    {Liveness.PREPARING, Liveness.FETCHING, Liveness.TRAINING, Liveness.EVALUATING, Liveness.SENDING}
)
TRANSFERS: Final = frozenset({Liveness.FETCHING, Liveness.SENDING})
_OF_WORD: Final = {one.value: one for one in Liveness} | {
    "validating": Liveness.TRAINING,
    "testing": Liveness.EVALUATING,
}


@dataclass(frozen=True, slots=True)
class Signs:
    """What was heard of one site. `moved_at`: when its work last moved, or it last began something else."""

    heard_at: float | None = None
    word: str = ""
    """What it said last that it does: a state of `kinds.Alive` or a phase of `kinds.Progress`."""
    said: str = ""
    """The state of the last `note_alive` alone."""
    moved_at: float | None = None
    mark: tuple[str, int, str, int] | None = None
    """Experiment, round, phase and `done` of the last progress."""
    ends_at: float | None = None
    """When the work that it told of will be done, by its own estimate."""
    is_done: bool = False
    """Whether its last progress was the last of its kind: what was to be sent is out."""

    @property
    def experiment(self) -> str | None:
        """Which experiment its last progress was about."""
        return self.mark[0] if self.mark else None

    @property
    def working(self) -> bool:
        """Whether it said last that it is at work."""
        return _OF_WORD.get(self.word) in WORKING

    @property
    def estimate(self) -> float | None:
        """When what it works at now will be done."""
        return self.ends_at if self.working else None

    def note_alive(self, state: str, now: float) -> Signs:
        """The site said that it lives."""
        # A word that progress already stands for is nothing new; said over and over it is not even that.
        new = state != self.said and _OF_WORD.get(state) is not _OF_WORD.get(self.word)
        return replace(self, heard_at=now, word=state, said=state, moved_at=now if new else self.moved_at)

    def note_progress(
        self,
        experiment: str,
        round_number: int,
        phase: str,
        done: int,
        eta_seconds: float | None,
        now: float,
        *,
        is_done: bool = False,
    ) -> Signs:
        """The site told of its work."""
        mark = (experiment, round_number, phase, done)
        return replace(
            self,
            heard_at=now,
            word=phase,
            moved_at=now if mark != self.mark else self.moved_at,
            mark=mark,
            ends_at=None if eta_seconds is None else now + eta_seconds,
            is_done=is_done,
        )


def median_of_others(ends: Sequence[float], own: float | None) -> float | None:
    """The (upper) median of estimated ends without one's own; None where there is no other.

    Args:
        ends: everybody's, ascending, sorted once for all who are judged.
        own: the judged site's, one of them; None: it gave none.
    """
    if own is None:
        return ends[len(ends) // 2] if ends else None
    if len(ends) < 2:
        return None
    middle = (len(ends) - 1) // 2
    return ends[middle if middle < bisect_left(ends, own) else middle + 1]


def judge_liveness(
    signs: Signs,
    now: float,
    *,
    deadline: float | None = None,
    others_end: float | None = None,
    listening_since: float | None = None,
    coordinator_silent: bool = False,
) -> Liveness:
    """What a site is.

    Args:
        deadline: when its part must be here.
        others_end: when the others who work at the same thing will be done (`median_of_others`).
        listening_since: since when the observer hears anything; silence before that proves nothing.
        coordinator_silent: nothing is heard of the coordinator: who fetches or sends waits for it, and is not stuck.
    """
    heard_at, moved_at = signs.heard_at, signs.moved_at
    if listening_since is not None:
        heard_at = max(heard_at, listening_since) if heard_at is not None else listening_since
        moved_at = max(moved_at, listening_since) if moved_at is not None else None
    if heard_at is None or now - heard_at > ABSENT_AFTER:
        return Liveness.ABSENT
    seen = _OF_WORD.get(signs.word, Liveness.IDLE)
    if seen not in WORKING:
        return seen
    waits = seen in TRANSFERS and (coordinator_silent or (seen is Liveness.SENDING and signs.is_done))
    if moved_at is not None and now - moved_at > STUCK_AFTER and not waits:
        return Liveness.STUCK
    if signs.ends_at is not None and _is_late(signs.ends_at, now, deadline, others_end):
        return Liveness.SLOW
    return seen


def _is_late(ends_at: float, now: float, deadline: float | None, others_end: float | None) -> bool:
    if deadline is not None and ends_at > deadline:
        return True
    if others_end is None:
        return False
    median = max(0.0, others_end - now)
    return ends_at - now > max(SLOW_FACTOR * median, median + SLOW_SECONDS)
