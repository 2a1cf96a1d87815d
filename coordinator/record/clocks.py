"""Whether the times in a log fit each other: an entry's, those inside it, and those that the sites wrote.

Two checks, of different strength:

1. An entry of a step has the time of its input, to the bit: one reading of the coordinator's clock is both.
2. A site wrote its events by its own clock. An event was written before the log took it, and an answer after what it
   answers: so each event bounds by how much the site's clock is ahead of the log's times, from one side. Bounds that
   exclude each other, or put the two more than `TOLERANCE` apart, contradict the log's times. One site may have a
   wrong clock. More than half of the sites, and at least two, have not: then the log's times are not to be believed.

A late event proves nothing (a broker may have been away for days), so no bound is taken from lateness. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.record.journal import STEP
from messages.chain import Entry
from messages.ground.errors import MalformedMessage
from messages.kinds import KINDS
from messages.names import COORDINATOR

TOLERANCE = 600.0
"""Seconds by which clocks may differ. (`konsil site preflight` warns long before.)"""
SAME_READING = 1e-3
PLAUSIBLE_FROM = 1_577_836_800.0
"""2020-01-01: a clock that says less was never set, and proves nothing."""
_OF_A_ROUND = ("round-accepted", "weights-ready", "round-failed", "evaluated")
_OF_A_SECURE_ROUND = "secure-"
_OF_RECRUITING = ("joined", "declined")


def explain_entry_time(entry: Entry, given: i.AnyInput) -> str:
    """Why an entry cannot have been written at its time; empty where it fits its input."""
    return explain_time(entry, given.time)


def explain_time(entry: Entry, time: float) -> str:
    """The same of the time that its input says."""
    if abs(entry.time - time) <= SAME_READING:
        return ""
    return f"its time is not that of its input: they are {tell_duration(entry.time - time)} apart"


def tell_duration(seconds: float) -> str:
    """ "90 s", "12 min", "2.5 h" ; the sign is left out."""
    size = abs(seconds)
    if size < 120:
        return f"{size:.3g} s"
    return f"{size / 60:.0f} min" if size < 7200 else f"{size / 3600:.3g} h"


class StepTimes(NamedTuple):
    """What a step's entry says of times.

    Attributes:
        taken: the time of its input.
        said: kind, sender, time and round of the event in it.
        accepted, started: whether it accepts an experiment, and which rounds it starts.
        whole: whether this version could read all of it.
    """

    taken: float
    said: tuple[str, str, float, int] | None = None
    accepted: bool = False
    started: tuple[int, ...] = ()
    whole: bool = True


def read_times(entry: Entry, body: Mapping[str, Any], payload: Mapping[str, Any] | None) -> StepTimes | None:
    """What a step's entry says of times; None where it is none, or says no time.

    Args:
        body: of the entry; `payload`: of the event in it, None where it holds none.
    """
    if entry.type != STEP:
        return None
    try:
        taken = float(body["input"]["time"])
    except (KeyError, TypeError, ValueError):
        return None
    try:
        decisions = body["decisions"]
        started = tuple(int(one["number"]) for one in decisions if one["decision"] == "round-started")
        accepted = any(one["decision"] == "accepted" for one in decisions)
        said = None
        if payload is not None:
            said = (str(payload["kind"]), str(payload["sender"]), float(payload["time"]), int(payload["round"]))
    except (KeyError, TypeError, ValueError):
        return StepTimes(taken, whole=False)
    return StepTimes(taken, said, accepted, started)


@dataclass(slots=True)
class _Ahead:
    """By how many seconds a site's clock is ahead of the log's times: at least, and at most."""

    least: float = -math.inf
    most: float = math.inf

    def explain(self) -> str:
        if self.least - self.most > TOLERANCE:
            return f"contradict each other by {tell_duration(self.least - self.most)}"
        if self.least > TOLERANCE:
            return f"are apart: the site's is ahead by {tell_duration(self.least)} or more"
        if self.most < -TOLERANCE:
            return f"are apart: the log's is ahead by {tell_duration(self.most)} or more"
        return ""


@dataclass(frozen=True, slots=True)
class ClockVerdict:
    """What the sites' clocks say of a log's times.

    Attributes:
        agrees: False: more than half of the sites, at least two, contradict the log.
        sites: of how many sites there is evidence.
        contradictions: site → in words, what its clock and the log's times do.
        steps_back: where the log's own times run backwards by more than `TOLERANCE`, in words.
    """

    agrees: bool
    sites: int
    contradictions: dict[str, str] = field(default_factory=dict)
    steps_back: tuple[str, ...] = ()

    def as_plain(self) -> dict[str, object]:
        """For --json."""
        return {
            "agrees": self.agrees,
            "sites": self.sites,
            "contradictions": self.contradictions,
            "steps_back": list(self.steps_back),
        }

    def lines(self) -> list[str]:
        """What a person should know; none where everything fits."""
        told = [f"{site}: its clock and the log's times {what}" for site, what in sorted(self.contradictions.items())]
        if not self.agrees:
            told.append(
                f"the log's times contradict the clocks of {len(self.contradictions)} of {self.sites} sites: they were "
                "changed, or the coordinator's clock was wrong"
            )
        elif told:
            told.append("one site's clock proves nothing: it may be wrong itself")
        return [*told, *self.steps_back]


class SiteClocks:
    """Gathers what the sites' clocks say of the times of a log's entries, which come in their order."""

    def __init__(self) -> None:
        self._ahead: dict[str, _Ahead] = {}
        self._accepted: dict[str, float] = {}
        self._started: dict[tuple[str, int], float] = {}
        self._last: dict[str, Entry] = {}
        self._back: list[str] = []

    def note_step(self, entry: Entry, given: i.AnyInput, decided: tuple[d.AnyDecision, ...]) -> None:
        """Take one step's entry into account."""
        self._note_order(entry)
        if isinstance(given, i.Received):
            self._note_event(entry, given)
        for decision in decided:
            if isinstance(decision, d.Accepted):
                self._accepted.setdefault(entry.experiment, entry.time)
            elif isinstance(decision, d.RoundStarted):
                self._started.setdefault((entry.experiment, decision.number), entry.time)

    def note_times(self, entry: Entry, times: StepTimes) -> None:
        """The same of what an entry's body says of times (`read_times`), which costs much less."""
        self._note_order(entry)
        if times.said is not None:
            self._note_said(entry, *times.said)
        if times.accepted:
            self._accepted.setdefault(entry.experiment, entry.time)
        for number in times.started:
            self._started.setdefault((entry.experiment, number), entry.time)

    def judge(self) -> ClockVerdict:
        """What they say."""
        contradictions = {site: what for site, ahead in self._ahead.items() if (what := ahead.explain())}
        wrong = len(contradictions) >= 2 and 2 * len(contradictions) > len(self._ahead)
        return ClockVerdict(not wrong, len(self._ahead), contradictions, tuple(self._back))

    def _note_order(self, entry: Entry) -> None:
        before = self._last.get(entry.experiment)
        self._last[entry.experiment] = entry
        if before is not None and before.time - entry.time > TOLERANCE:
            back = tell_duration(before.time - entry.time)
            self._back.append(
                f"entry {entry.index} of {entry.experiment} is {back} earlier than the entry before it: the "
                "coordinator's clock was set back, or a time was changed"
            )

    def _note_event(self, entry: Entry, given: i.Received) -> None:
        try:
            event = given.event
        except MalformedMessage:  # as somebody wrote it who can write the whole file: replay names it
            return
        self._note_said(entry, event.kind, event.sender, event.time, event.round)

    def _note_said(self, entry: Entry, kind: str, sender: str, time: float, round_: int) -> None:
        spec = KINDS.get(kind)
        if spec is None or spec.senders != {"site"} or sender == COORDINATOR or time < PLAUSIBLE_FROM:
            return
        ahead = self._ahead.setdefault(sender, _Ahead())
        ahead.least = max(ahead.least, time - entry.time)
        after: float | None = None
        if kind in _OF_A_ROUND or kind.startswith(_OF_A_SECURE_ROUND):
            after = self._started.get((entry.experiment, round_))
        elif kind in _OF_RECRUITING:
            after = self._accepted.get(entry.experiment)
        if after is not None:
            ahead.most = min(ahead.most, time - after)
