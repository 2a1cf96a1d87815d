"""What can be said of a journal that may be broken: up to which entry it holds, and which experiments are whole."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from messages import chain
from messages.chain import ZERO, Entry
from messages.ground.errors import LogBroken, MalformedMessage
from messages.ground.naming import NO_EXPERIMENT

SHOWN = 20
"""Experiments that one line names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A journal, looked at.

    Attributes:
        holds: number of the last entry up to which the whole chain holds; 0 where not even the first does.
        written: number of the last entry that should be there, as far as anything tells.
        problem: the first thing that is wrong, in words; empty: nothing is.
        whole: experiments of which every entry that can be read follows from the one before it.
        damaged: the others that can be told.
        beyond: experiments with entries after `holds`: going on from there forgets those entries.
    """

    holds: int
    written: int
    problem: str = ""
    whole: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()

    def tell_finding(self) -> str:
        """What holds and what does not, in one line."""
        if not self.problem:
            return "The one entry holds" if self.holds == 1 else f"All {self.holds} entries hold"
        parts = [f"Entries 1 to {self.holds} of {self.written} hold" if self.holds else "No entry holds"]
        for what, which in (("whole", self.whole), ("damaged", self.damaged)):
            if which:
                parts.append(f"{what}: {_list_names(which)}")
        return "; ".join(parts)

    def advise(self) -> str:
        """What to do about a broken journal, after what there is."""
        begin = ""
        if self.holds:
            lost = f", which forgets what came later of {_list_names(self.beyond)}" if self.beyond else ""
            begin = f", or go on from entry {self.holds} (`konsil coordinator cut --after {self.holds}`{lost})"
        return f"{self.tell_finding()}. Restore a backup (`konsil coordinator restore`){begin}"


@dataclass
class _Experiment:
    """How far one experiment's own chain holds, while its entries are read."""

    last: Entry | None = None
    broken: bool = False

    def take_entry(self, entry: Entry | None) -> None:
        index, before = (self.last.index, self.last.hash) if self.last else (0, ZERO)
        if entry is None or (entry.index, entry.previous) != (index + 1, before) or entry.computed_hash() != entry.hash:
            self.broken = True
        else:
            self.last = entry


def examine_journal(db: sqlite3.Connection, *, head: int = 0) -> Finding:
    """Look at every entry that can be read; never raises for what is in the file.

    Args:
        head: number of the last entry, as something beside the database tells it.
    """
    experiments: dict[str, _Experiment] = {}
    holds, seen, problem, beyond = 0, 0, "", set[str]()
    before = ZERO
    try:
        for number, name, index, data in db.execute(
            "SELECT number, experiment, idx, data FROM entries ORDER BY number"
        ):
            entry = _decode_entry(number, name, index, data)
            one = experiments.setdefault(name, _Experiment())
            one.take_entry(entry)
            follows = entry is not None and not one.broken and (number, entry.before) == (holds + 1, before)
            if follows and entry is not None and not problem:
                holds, before = number, entry.hash
            else:
                problem = problem or f"entry {index} of {name} (journal number {number}) does not follow"
                beyond.add(name)
            seen = number
    except sqlite3.DatabaseError as error:
        problem = problem or f"the file is damaged ({error})"
    written = max(seen, head, _promised_number(db))
    if written > seen:
        problem = problem or f"entries after {seen} are missing"
    names = sorted(set(experiments) - {NO_EXPERIMENT})
    broken = tuple(name for name in names if experiments[name].broken)
    whole = tuple(name for name in names if not experiments[name].broken)
    return Finding(holds, written, problem, whole, broken, tuple(sorted(beyond - {NO_EXPERIMENT})))


def examine_file(path: Path, *, head: int = 0) -> Finding:
    """Look at a journal's file, read-only; one that is no database holds nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            return examine_journal(db, head=head)
    except sqlite3.DatabaseError as error:
        return Finding(0, head, f"the file is damaged ({error})")


def good_entries(db: sqlite3.Connection, up_to: int) -> Iterable[Entry]:
    """The first entries of a journal whose later ones may be broken.

    Raises:
        LogBroken: one of these does not hold, either.
    """
    rows = db.execute("SELECT number, experiment, idx, data FROM entries WHERE number <= ? ORDER BY number", (up_to,))
    found: list[Entry] = []
    for number, name, index, data in rows:
        entry = _decode_entry(number, name, index, data)
        if entry is None:
            raise LogBroken("its content was changed", where=f"entry {index} of {name} (journal number {number})")
        found.append(entry)
        if len(found) == up_to:
            break  # the next row may lie on a damaged page
    return chain.verify(found, whole_journal=True)


def _decode_entry(number: int, name: str, index: int, data: bytes) -> Entry | None:
    try:
        entry = chain.decode_entry(data)
    except MalformedMessage:
        return None
    return entry if (entry.number, entry.experiment, entry.index) == (number, name, index) else None


def _promised_number(db: sqlite3.Connection) -> int:
    with contextlib.suppress(sqlite3.DatabaseError):
        row = db.execute("SELECT value FROM meta WHERE key = 'head'").fetchone()
        return int.from_bytes(row[0][:8], "big") if row else 0
    return 0


def _list_names(names: Iterable[str]) -> str:
    named = list(names)
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more
