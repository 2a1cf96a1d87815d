"""The coordinator's durable record: SQLite (WAL, synchronous FULL), entries hash-chained.

What is received, what was decided, the stream's position and the ids seen are written in one transaction, before any
effect is carried out. One writer, kept so by a lock file; readers may open the journal at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages import chain, codec
from messages.bus.base import Position
from messages.chain import Entry
from messages.errors import KonsilError, LogBroken, MalformedMessage, NameTaken, RequestError, WorkFailed

STEP, ASIDE, TERM = "step", "set-aside", "term"
"""Types of entries: an input with its decisions; a message that was set aside; a start under a new term."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, experiment TEXT NOT NULL, idx INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_experiment ON entries (experiment, idx);
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, settled INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (queue TEXT PRIMARY KEY, offset INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What goes into the journal together with an entry."""

    seen: Mapping[str, bool]
    """Event id → whether it is settled (has its receipt)."""
    positions: Mapping[str, Position]


NOTHING = Written({}, {})


class Journal:
    """The journal, opened for writing by the one coordinator of a consortium.

    Args:
        folder: holds `journal.sqlite` and `journal.lock`.
        crash_after: test hook (KONSIL_CRASH_AFTER_ENTRY): SIGKILL this process once entry N is committed.

    Raises:
        NameTaken: another coordinator holds the lock.
        LogBroken: an entry was changed or is missing, or the file is damaged.
    """

    def __init__(self, folder: Path, *, crash_after: int | None = None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RequestError(f"cannot be used ({error.strerror})", where=str(folder)) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise NameTaken(
                "another coordinator uses this journal", where=str(folder), advice="Stop the other one first"
            ) from None
        self.path = folder / "journal.sqlite"
        self._crash_after = crash_after
        self._last: dict[str, Entry] = {}
        self._before: Entry | None = None
        try:
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            for entry in _verified(self._db, self.path):
                self._last[entry.experiment] = self._before = entry
            self.term = int(self.get("term") or b"0") + 1
            self.put("term", str(self.term).encode())
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise _damaged(self.path, error) from None
        except LogBroken:
            self.close()
            raise

    @property
    def number(self) -> int:
        """Number of the last entry, 0 in an empty journal."""
        return self._before.number if self._before else 0

    def append(
        self, experiment: str, kind: str, body: Mapping[str, Any], *, time: float, written: Written = NOTHING
    ) -> Entry:
        """Commit one entry with what belongs to it; on return it is on disk."""
        previous = self._last.get(experiment)
        entry = Entry(
            number=self.number + 1,
            index=previous.index + 1 if previous else 1,
            experiment=experiment,
            time=time,
            type=kind,
            body=codec.pack(body),
            previous=previous.hash if previous else chain.ZERO,
            before=self._before.hash if self._before else chain.ZERO,
        ).sealed()
        with self._transaction():
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?)",
                (entry.number, experiment, entry.index, entry.encode()),
            )
            self._put("head", entry.number.to_bytes(8, "big") + entry.hash)
            self._write(written)
        self._last[experiment] = self._before = entry
        if self._crash_after == entry.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    def note(self, written: Written) -> None:
        """Commit positions and ids alone."""
        with self._transaction():
            self._write(written)

    def seen(self, identity: str) -> bool | None:
        """None: never seen; else whether it is settled."""
        row = self._db.execute("SELECT settled FROM seen WHERE id = ?", (identity,)).fetchone()
        return None if row is None else bool(row[0])

    def position(self, queue: str) -> Position | None:
        """Where to resume a stream. Callable from any thread (a connection of its own)."""
        with contextlib.closing(_reader(self.path)) as db:
            row = db.execute("SELECT offset, digest FROM positions WHERE queue = ?", (queue,)).fetchone()
        return None if row is None else Position(row[0], row[1])

    def get(self, key: str) -> bytes | None:
        """A value kept beside the entries (term, last sign of life, what was published)."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        with self._transaction():
            self._put(key, value)

    def entries(self, *, after: int = 0) -> Iterator[Entry]:
        """Entries from a number on (unverified: opening has verified them)."""
        yield from _entries(self._db, after)

    def close(self) -> None:
        """Close and free the lock."""
        self._db.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put(self, key: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _write(self, written: Written) -> None:
        for identity, settled in written.seen.items():
            self._db.execute(
                "INSERT INTO seen VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET settled = max(settled, excluded.settled)",
                (identity, int(settled)),
            )
        for queue, position in written.positions.items():
            self._db.execute(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (queue, position.offset, position.digest)
            )


class AuditPosition:
    """How far the journal is in the broker's `audit` stream; used by the thread that publishes it there."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        # In WAL mode a commit is then not synced: what a power cut forgets is published twice, and readers know it.
        self._db.execute("PRAGMA synchronous = NORMAL")

    def read(self) -> int:
        """Number of the last entry whose publish was confirmed."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'audited'").fetchone()
        return int(row[0]) if row else 0

    def write(self, number: int) -> None:
        """Keep the number."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('audited', ?)", (str(number).encode(),))

    def entries(self, after: int) -> Iterator[Entry]:
        """Entries still to be published."""
        yield from _entries(self._db, after)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()


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
        raise RequestError("there is no journal", where=str(path), advice="Name the coordinator's state folder")
    try:
        with contextlib.closing(_reader(path)) as db:
            # One transaction: what is appended meanwhile belongs to the next reading.
            db.execute("BEGIN")
            yield from _verified(db, path)
    except sqlite3.DatabaseError as error:
        raise _damaged(path, error) from None


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)


def _damaged(path: Path, error: sqlite3.DatabaseError) -> KonsilError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return WorkFailed(
            f"the journal cannot be written or read ({error})",
            where=str(path),
            advice="Free space on this disk, or mend it, and start again",
        )
    return LogBroken(
        f"the journal's file is damaged ({error})",
        where=str(path),
        advice="Restore it from a copy, or compare it with the broker's `audit` stream",
    )


def _entries(db: sqlite3.Connection, after: int = 0) -> Iterator[Entry]:
    for (data,) in db.execute("SELECT data FROM entries WHERE number > ? ORDER BY number", (after,)):
        yield chain.decode_entry(data)


def _verified(db: sqlite3.Connection, path: Path) -> Iterator[Entry]:
    """Each entry once it is known to be as written, and at the end that none is missing there."""

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
    head = bytes(row[0]) if row else None
    have = last.number.to_bytes(8, "big") + last.hash if last else None
    if head != have:
        number = int.from_bytes(head[:8], "big") if head else 0
        raise LogBroken(
            f"the journal was cut off: it should end with entry {number}, not {last.number if last else 0}",
            where=str(path),
        )
