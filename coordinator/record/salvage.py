"""A journal that goes on from an earlier state of itself: cut behind its last good entry, or given a term of its own.

Whatever goes on from an older journal gets a term above all that were used: seconds since 1970, since starts raise it
by one. Otherwise sites, which keep the highest term that they have heard, would refuse it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.record.diagnosis import examine_journal, good_entries
from coordinator.record.journal import ASIDE, STEP, lock_folder, write_anew
from coordinator.record.journal_file import open_reader
from coordinator.record.recovery import read_step
from messages.chain import Entry
from messages.ground.clock import Clock, SystemClock
from messages.ground.durable import keep_file
from messages.ground.errors import LogBroken, RequestError


def cut_after(state: Path, after: int, *, even_good: bool = False, clock: Clock = SystemClock()) -> Path:
    """Go on from entry `after` of a broken journal; returns where the broken one is kept.

    Args:
        even_good: entries that hold may be cut off, too.

    What was heard later is heard again: the positions in the streams are forgotten, and the ids of what the entries
    that stay have handled are kept. Blobs stay as they are.

    Raises:
        RequestError: there is no journal, or entries that hold would be cut off.
        NameTaken: a coordinator uses it.
        LogBroken: not even these entries hold.
    """
    place = state / "journal.sqlite"
    if not place.is_file():
        raise RequestError("there is no journal", where=str(state))
    handle = lock_folder(state)
    try:
        try:
            with contextlib.closing(open_reader(place)) as db:
                entries = list(good_entries(db, after))
                term = _old_term(db)
                holds = examine_journal(db).holds
        except sqlite3.DatabaseError as error:
            raise LogBroken(f"not even these entries can be read ({error})", where=str(place)) from None
        if len(entries) != after:
            raise RequestError(f"the journal has no entry {after}", where=str(place))
        if after < holds and not even_good:
            raise RequestError(
                f"entries {after + 1} to {holds} hold, too, and would be cut off",
                where=str(place),
                advice=f"Use --after {holds}; or add --even-good, if they are to go",
            )
        fresh = state / "journal.sqlite.part"
        fresh.unlink(missing_ok=True)
        write_anew(fresh, entries, handled_events(entries), term=max(term, int(clock.wall())))
        kept = state / f"journal-broken-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(clock.wall()))}"
        kept.mkdir()
        for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.head"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(state / name, kept / name)
        keep_file(fresh, place)
    finally:
        os.close(handle)
    return kept


def handled_events(entries: Iterable[Entry]) -> dict[str, bool]:
    """The ids of the events that these entries have handled → whether they are settled (see `Inbound`)."""
    seen: dict[str, bool] = {}
    names: dict[str, str] = {}
    for entry in entries:
        if entry.type not in (STEP, ASIDE):
            continue
        try:
            given, decided = read_step(entry)
        except LogBroken:
            continue  # set aside: if it comes again it is looked at again
        if isinstance(given, i.Received):
            event = given.event
            names[event.id] = i.identify_event(event)
            seen[names[event.id]] = False
        for one in decided:
            if isinstance(one, d.Settled) and one.event in names:
                seen[names[one.event]] = True
    return seen


def raise_term(path: Path, clock: Clock = SystemClock()) -> None:
    """Give a journal that nobody uses a term above all that were used before."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        term = max(_old_term(db), int(clock.wall()))
        db.execute("INSERT OR REPLACE INTO meta VALUES ('term', ?)", (str(term).encode(),))


def _old_term(db: sqlite3.Connection) -> int:
    with contextlib.suppress(sqlite3.DatabaseError):
        row = db.execute("SELECT value FROM meta WHERE key = 'term'").fetchone()
        return int(row[0]) if row else 0
    return 0
