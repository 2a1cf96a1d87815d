"""The auditor's reading of a log: the story entry by entry, and whether everything in it follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.record.clocks import ClockVerdict, SiteClocks, StepTimes, explain_time
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_step
from deploy.console import format_moment
from messages.chain import Entry, name_entry
from messages.ground.errors import LogBroken
from messages.ground.units import count_noun


@dataclass
class ReplayVerdict:
    """What a replay found."""

    entries: int = 0
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Round → {"status": recomputed | digest-only | missing, "agrees": bool, "contributors": {site: cases},
    "model_digest"}."""
    wrong: list[dict[str, Any]] = field(default_factory=list)
    """Entries that do not follow, or were changed: {"entry", "what"}."""
    with_blobs: bool = False
    """Whether stored models and updates were there to compute from."""
    clocks: ClockVerdict = field(default_factory=lambda: ClockVerdict(True, 0))
    """What the sites' clocks say of the log's times."""

    @property
    def agrees(self) -> bool:
        """Whether nothing disagrees."""
        return not self.wrong and self.entries > 0 and self.clocks.agrees

    def count_rounds(self, status: str) -> int:
        """Rounds of one status."""
        return sum(one["status"] == status for one in self.rounds.values())

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "agrees": self.agrees,
            "entries": self.entries,
            "rounds": {str(number): one for number, one in sorted(self.rounds.items())},
            "wrong": self.wrong,
            "recomputed": self.count_rounds("recomputed"),
            "times": self.clocks.as_plain(),
        }

    def summary_line(self, identity: str) -> str:
        """The summary."""
        how = ", ".join(
            f"{count} {words}"
            for status, words in (
                ("recomputed", "recomputed"),
                ("digest-only", "digest only"),
                ("missing", "missing"),
            )
            if (count := self.count_rounds(status))
        )
        head = f"{identity}: {count_noun(self.entries, 'entry')}, {count_noun(len(self.rounds), 'round')}" + (
            f" ({how})" if how else ""
        )
        if self.agrees:
            return f"{head}: {self._agreement()}"
        if self.wrong:
            first = self.wrong[0]
        else:
            first = {"entry": "the log", "what": "it holds no entry" if self.clocks.agrees else "its times (above)"}
        return f"{head}: DOES NOT AGREE, first at {first['entry']}: {first['what']}"

    def _agreement(self) -> str:
        """What was shown, and what was not: a round that was not computed again proves nothing of its model."""
        again, rounds = self.count_rounds("recomputed"), len(self.rounds)
        if not rounds:
            return "every decision agrees; it made no model"
        if again == rounds:
            return f"every decision agrees, and so does every aggregate ({again} computed again)"
        why = "updates were not kept" if self.with_blobs else "the stored updates are not here: --blobs names them"
        if not again:
            return f"every decision agrees; NO aggregate was computed again ({why})"
        return f"every decision agrees, and so do {again} of {rounds} aggregates, computed again (of the others {why})"


def check_times(entry: Entry, times: StepTimes | None, clocks: SiteClocks) -> bool:
    """Check one entry's time, and let `clocks` take it into account. False: this version cannot read the entry.

    Raises:
        LogBroken: the entry's time is not the one inside it.
    """
    if entry.type != STEP:
        return True
    if times is None:  # a newer version's: its chain holds all the same
        return False
    if problem := explain_time(entry, times.taken):
        raise LogBroken(problem, where=name_entry(entry))
    if times.whole:
        clocks.note_times(entry, times)
    return times.whole


def replay_log(entries: Iterable[Entry], blobs: Path | None, tell: Callable[[str], None] | None) -> ReplayVerdict:
    """Replay a log; `tell` gets a line for each entry."""
    from coordinator.record import replay as replays
    from coordinator.work.blobs import Blobs

    verdict = ReplayVerdict(with_blobs=blobs is not None)
    clocks = SiteClocks()
    try:
        for step in replays.replay(entries, Blobs(blobs) if blobs else None):
            verdict.entries += 1
            if step.agrees and step.entry.type == STEP:
                clocks.note_step(step.entry, *read_step(step.entry))
            where = f"entry {step.entry.index} of {step.entry.experiment} (journal number {step.entry.number})"
            mark = ""
            if step.aggregate is not None:
                verdict.rounds[step.aggregate.round] = {
                    "status": str(step.aggregate.status),
                    "agrees": step.aggregate.agrees,
                    "contributors": dict(step.aggregate.contributors),
                    "model_digest": step.aggregate.model_digest,
                }
            if not step.agrees:
                verdict.wrong.append({"entry": where, "what": step.problem or "it does not follow"})
                mark = f"  !! {step.problem}"
            if tell is not None:
                tell(f"{step.entry.index:>5}  {format_moment(step.entry.time)}  {step.who}: {step.what}{mark}")
    except LogBroken as error:
        verdict.wrong.append({"entry": error.where, "what": error.what})
        if tell is not None:
            tell(f"!! {error}")
    verdict.clocks = clocks.judge()
    if tell is not None:
        for line in verdict.clocks.lines():
            tell(f"!! {line}")
    return verdict
