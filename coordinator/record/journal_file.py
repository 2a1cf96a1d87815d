"""The journal's file as one reads it: opened, verified entry by entry, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from coordinator.record.diagnosis import examine_file
from messages import chain
from messages.chain import Entry
from messages.ground.errors import KonsilError, LogBroken, MalformedMessage, RequestError, WorkFailed

LAYOUT = 1
"""Of the tables (PRAGMA user_version; 0 was written before there was a number, and is the same)."""


def is_in_use(folder: Path) -> bool:
    """Whether a coordinator holds the journal in this state folder; nothing is made there.

    Linux lists locks in /proc/locks (proc(5)). To take the lock, even for an instant, could turn away a coordinator
    that starts just then.
    """
    try:
        found = (folder / "journal.lock").stat()
        held = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(place in line.split() and "FLOCK" in line for line in held.splitlines())


def open_readonly(path: Path) -> Iterator[Entry]:
    """All entries of a journal, verified one by one; the coordinator may be running.

    Args:
        path: `journal.sqlite`, or the folder that holds it.

    Raises:
        RequestError: there is no journal.
        LogBroken: an entry was changed or is missing.
    """
    if path.is_dir():
        path = path / "journal.sqlite"
    if not path.is_file():
        raise RequestError(
            "there is no journal",
            where=str(path),
            advice="Name the coordinator's state folder; `konsil coordinator run` makes its journal",
        )
    try:
        with contextlib.closing(open_reader(path)) as db:
            check_layout(db, path)
            # One transaction: what is appended meanwhile belongs to the next reading.
            db.execute("BEGIN")
            yield from verify_entries(db, path)
    except sqlite3.DatabaseError as error:
        raise damaged_error(path, error) from None


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)


class JournalDiskFull(WorkFailed):
    """The journal could not be written for want of space; nothing of the transaction is in it."""


def is_full(error: sqlite3.DatabaseError) -> bool:
    """Whether it may work once there is space. IOERR: writing beyond a quota or a file size limit says so."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def damaged_error(path: Path, error: sqlite3.DatabaseError) -> KonsilError:
    """What an error of SQLite means for the one who runs the coordinator."""
    if is_full(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return JournalDiskFull(
            f"the journal cannot be written or read ({error})",
            where=str(path),
            advice="Free space on this disk, or mend it, and start again",
        )
    return explain_broken(path, LogBroken(f"the journal's file is damaged ({error})", where=str(path)))


def explain_broken(path: Path, error: LogBroken) -> LogBroken:
    """The same with what still holds, and what to do."""
    head = read_head(path)
    return LogBroken(error.what, where=error.where, advice=examine_file(path, head=head[0] if head else 0).advise())


def read_head(path: Path) -> tuple[int, bytes] | None:
    """Number and hash of the last entry, as noted beside the database; None where nothing (whole) is noted."""
    try:
        number, digest = (path.parent / "journal.head").read_text("ascii").split()
        return int(number), bytes.fromhex(digest)
    except (OSError, ValueError):
        return None


def check_layout(db: sqlite3.Connection, path: Path) -> None:
    """RequestError where a newer version has made the tables."""
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > LAYOUT:
        raise RequestError(
            f"a newer Konsil wrote this journal (layout {found}; this one knows {LAYOUT})",
            where=str(path),
            advice="Use the version that wrote it, or a newer one; nothing was changed",
        )


def entries_of(db: sqlite3.Connection, after: int = 0) -> Iterator[Entry]:
    """Entries from a number on, unverified."""
    for (data,) in db.execute("SELECT data FROM entries WHERE number > ? ORDER BY number", (after,)):
        yield chain.decode_entry(data)


def verify_entries(db: sqlite3.Connection, path: Path) -> Iterator[Entry]:
    """Each entry once it is known to be as written, and at the end that none is missing there."""
    noted = read_head(path)  # before the first look at the database: a coordinator may be writing

    def rows() -> Iterable[Entry]:
        for number, experiment, index, data in db.execute("SELECT * FROM entries ORDER BY number"):
            where = f"entry {index} of {experiment} (journal number {number})"
            try:
                entry = chain.decode_entry(data)
            except MalformedMessage:
                raise LogBroken("its content was changed: it cannot be read", where=where) from None
            if (entry.number, entry.experiment, entry.index) != (number, experiment, index):
                raise LogBroken("it does not stand where it was written", where=where)
            yield entry

    last: Entry | None = None
    for entry in chain.verify(rows(), whole_journal=True):
        last = entry
        yield entry
    row = db.execute("SELECT value FROM meta WHERE key = 'head'").fetchone()
    head = row[0] if row else None
    if head is not None and not (isinstance(head, bytes) and len(head) > 8):
        raise LogBroken("the journal's note of its last entry was changed", where=str(path))
    have = last.number.to_bytes(8, "big") + last.hash if last else None
    if head != have:
        number = int.from_bytes(head[:8], "big") if head else 0
        raise LogBroken(
            f"the journal was cut off: it should end with entry {number}, not {last.number if last else 0}",
            where=str(path),
        )
    if noted is not None and noted[0] > (last.number if last else 0):
        raise LogBroken(
            f"the journal has lost its end: entry {noted[0]} was written, and it ends with"
            f" {last.number if last else 0} (was journal.sqlite-wal deleted, or the file copied without it?)",
            where=str(path),
        )
