"""The auditor's reading of a log: the story entry by entry, and whether everything in it follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.console import format_moment
from messages.chain import Entry
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

    @property
    def agrees(self) -> bool:
        """Whether nothing disagrees."""
        return not self.wrong and self.entries > 0

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
            return f"{head}: every decision and every recomputed aggregate agrees"
        first = self.wrong[0] if self.wrong else {"entry": "the log", "what": "it holds no entry"}
        return f"{head}: DOES NOT AGREE, first at {first['entry']}: {first['what']}"


def replay_log(entries: Iterable[Entry], blobs: Path | None, tell: Callable[[str], None] | None) -> ReplayVerdict:
    """Replay a log; `tell` gets a line for each entry."""
    from coordinator.record import replay as replays
    from coordinator.work.blobs import Blobs

    verdict = ReplayVerdict()
    try:
        for step in replays.replay(entries, Blobs(blobs) if blobs else None):
            verdict.entries += 1
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
    return verdict
