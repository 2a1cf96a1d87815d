"""How things stand with a coordinator, from its state folder alone: for `konsil coordinator status`."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.core import inputs as i
from coordinator.core.evolve import fold_decisions
from coordinator.core.state import ExperimentState
from coordinator.record import story
from coordinator.record.diagnosis import examine_file
from coordinator.record.journal import ASIDE, STEP, TERM
from coordinator.record.journal_file import open_readonly, read_head
from coordinator.record.recovery import read_step
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage
from messages.ground.units import count_noun, human_bytes

LAST = 5
"""Messages set aside that are listed."""


@dataclass
class Overview:
    """What is told.

    Attributes:
        problem: what is wrong with the journal, with what holds and what to do; empty: nothing.
        aside: reason → how many messages were set aside for it, those included that were only counted.
    """

    folder: Path
    entries: int = 0
    term: int = 0
    problem: str = ""
    experiments: dict[str, str] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    aside: Counter[str] = field(default_factory=Counter)
    last_aside: list[str] = field(default_factory=list)
    free: int = 0

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "state": str(self.folder),
            "entries": self.entries,
            "term": self.term,
            "problem": self.problem or None,
            "experiments": self.experiments,
            "phases": self.phases,
            "set_aside": dict(self.aside),
            "free_bytes": self.free,
        }

    def tell_lines(self) -> Iterator[str]:
        """For a person."""
        yield f"{self.folder}: {count_noun(self.entries, 'entry')}, term {self.term}, {human_bytes(self.free)} free"
        yield self.problem or "Every entry holds"
        yield from (f"  {told}" for told in self.experiments.values())
        if self.aside:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.aside.most_common())
            yield f"Set aside: {reasons}; the last:"
            yield from (f"  {one}" for one in self.last_aside[-LAST:])


def look_at_journal(folder: Path, see_step: Callable[[Entry, i.AnyInput], None] | None = None) -> Overview:
    """Read a coordinator's journal, which may be broken, or in use. RequestError: there is none.

    Args:
        see_step: is shown each step on the way, with what was given.
    """
    seen = Overview(folder)
    states: dict[str, ExperimentState] = {}
    try:
        for entry in open_readonly(folder):
            seen.entries = entry.number
            _take_entry(seen, states, entry, see_step)
    except LogBroken as error:
        head = read_head(folder / "journal.sqlite")
        found = examine_file(folder / "journal.sqlite", head=head[0] if head else 0)
        seen.problem = str(LogBroken(error.what, where=error.where, advice=found.advise()))
    seen.experiments = {name: story.tell_standing(state) for name, state in sorted(states.items())}
    seen.phases = {name: state.phase.value for name, state in sorted(states.items())}
    with contextlib.suppress(OSError):
        seen.free = shutil.disk_usage(folder).free
    return seen


def _take_entry(
    seen: Overview,
    states: dict[str, ExperimentState],
    entry: Entry,
    see_step: Callable[[Entry, i.AnyInput], None] | None,
) -> None:
    if entry.type == TERM:
        seen.term = int(str(_read_body(entry).get("term", 0)))
    elif entry.type == ASIDE:
        body = _read_body(entry)
        for reason, count in _count_body(body).items():
            seen.aside[reason] += count
        _who, what = story.tell_entry(entry)
        seen.last_aside = [*seen.last_aside[-LAST:], f"entry {entry.number}: {what}"]
    elif entry.type == STEP:
        given, decided = read_step(entry)
        if see_step is not None:
            see_step(entry, given)
        state = fold_decisions(states.get(entry.experiment), decided)
        if state is not None:
            states[entry.experiment] = state


def _count_body(body: dict[str, Any]) -> dict[str, int]:
    what = body.get("what")
    if isinstance(what, dict) and isinstance(what.get("counted"), dict):
        return {str(reason): int(count) for reason, count in what["counted"].items()}
    return {str(body.get("reason", "unreadable")): 1}


def _read_body(entry: Entry) -> dict[str, Any]:
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    except MalformedMessage:
        return {}
    return body if isinstance(body, dict) else {}
