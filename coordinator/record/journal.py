"""The coordinator's durable record: SQLite (WAL, synchronous FULL), entries hash-chained.

What is received, what was decided, the stream's position and the ids seen are written in one transaction, before any
effect is carried out. One writer, kept so by a lock file; readers may open the journal at any time.

`journal.head` beside it holds the last entry's number and hash, written after each commit and never synced: it may be
older than the database and never newer, so a database that ends before it has lost its end (a write-ahead log that was
deleted, a file copied without it), which the database itself cannot tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.record.journal_file import (
    LAYOUT,
    JournalDiskFull,
    check_layout,
    damaged_error,
    entries_of,
    explain_broken,
    is_full,
    open_reader,
    open_readonly,
    verify_entries,
)
from coordinator.record.numbering import check_term, read_term
from messages import chain, codec
from messages.bus.base import Position
from messages.chain import Entry
from messages.ground.durable import choose_synchronous, open_private_folder
from messages.ground.errors import KonsilError, LogBroken, NameTaken, RequestError
from messages.ground.naming import NO_EXPERIMENT

__all__ = [
    "ASIDE",
    "NOTHING",
    "REGISTER",
    "STEP",
    "TERM",
    "AuditPosition",
    "Journal",
    "JournalDiskFull",
    "Written",
    "open_readonly",
]

STEP, ASIDE, TERM, REGISTER = "step", "set-aside", "term", "register"
"""Types of entries: an input with its decisions; a message that was set aside; a start under a new term; the operator's
register that holds from then on."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, experiment TEXT NOT NULL, idx INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_experiment ON entries (experiment, idx);
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, settled INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (id TEXT PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (queue TEXT PRIMARY KEY, offset INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Written:
    """What goes into the journal together with an entry."""

    seen: Mapping[str, bool]
    """Event id → whether it is settled (has its receipt)."""
    positions: Mapping[str, Position]
    facts: Mapping[str, bytes] = field(default_factory=dict)
    """Id of a signed event → SHA-256 of what it says (`messages.envelope.digest_facts`)."""
    values: Mapping[str, bytes] = field(default_factory=dict)
    """As `Journal.put_value` keeps them."""


NOTHING = Written({}, {})


class Journal:
    """The journal, opened for writing by the one coordinator of a consortium.

    Args:
        folder: holds `journal.sqlite` and `journal.lock_folder`.
        watch: told each entry, those that are there first.
        crash_after: test hook (KONSIL_CRASH_AFTER_ENTRY): SIGKILL this process once entry N is committed.

    Raises:
        NameTaken: another coordinator holds the lock.
        LogBroken: an entry was changed or is missing, or the file is damaged: says what holds and what to do.
        RequestError: a newer Konsil wrote it.
        DiskFull: there is no space for it.
    """

    def __init__(
        self, folder: Path, *, watch: Callable[[Entry], None] | None = None, crash_after: int | None = None
    ) -> None:
        self._lock = lock_folder(folder)
        self.path = folder / "journal.sqlite"
        self._crash_after, self._watch = crash_after, watch
        self.on_full: Callable[[JournalDiskFull], None] = _give_up
        """Called when there is no space, before the next try; what it raises ends the trying."""
        self._last: dict[str, Entry] = {}
        self._before: Entry | None = None
        self.register: Entry | None = None
        """The newest register's."""
        self._begun: Entry | None = None
        """The entry of the newest term."""
        try:
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._open_database()
            self._head = os.open(folder / "journal.head", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except sqlite3.DatabaseError as error:
            self._db.close()
            os.close(self._lock)
            raise damaged_error(self.path, error) from None
        except OSError as error:
            os.close(self._lock)
            raise RequestError(f"cannot be used ({error.strerror})", where=str(folder)) from None
        except KonsilError as error:
            self._db.close()
            os.close(self._lock)
            raise (explain_broken(self.path, error) if isinstance(error, LogBroken) else error) from None
        self._note_head()

    def _open_database(self) -> None:
        check_layout(self._db, self.path)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA synchronous = {choose_synchronous()}")
        self._db.executescript(_SCHEMA)
        for entry in verify_entries(self._db, self.path):
            if entry.type == TERM:
                check_term(entry, self.path)
                self._begun = entry
            elif entry.type == REGISTER:
                self.register = entry
            self._note_last(entry)
        self._db.execute(f"PRAGMA user_version = {LAYOUT}")
        self.term = int(self.get_value("term") or b"0") + 1
        """That of this start, once `begin_term` has written it: a start that comes to say nothing uses none."""

    def _note_last(self, entry: Entry) -> None:
        self._last[entry.experiment] = self._before = entry
        if self._watch is not None:
            self._watch(entry)

    def _note_head(self) -> None:
        """Note the last entry beside the database; not synced."""
        last = self._before
        with contextlib.suppress(OSError):  # a full disk: the next entry notes more
            os.pwrite(
                self._head, f"{last.number if last else 0:020d} {last.hash.hex() if last else 64 * '0'}".encode(), 0
            )

    @property
    def number(self) -> int:
        """Number of the last entry, 0 in an empty journal."""
        return self._before.number if self._before else 0

    def append_entry(
        self, experiment: str, kind: str, body: Mapping[str, Any] | bytes, *, time: float, written: Written = NOTHING
    ) -> Entry:
        """Commit one entry with what belongs to it; on return it is on disk. `body`: a map, or one that is packed."""
        previous = self._last.get(experiment)
        entry = Entry(
            number=self.number + 1,
            index=previous.index + 1 if previous else 1,
            experiment=experiment,
            time=time,
            type=kind,
            body=body if isinstance(body, bytes) else codec.pack(body),
            previous=previous.hash if previous else chain.ZERO,
            before=self._before.hash if self._before else chain.ZERO,
        ).with_hash()

        def work() -> None:
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?)",
                (entry.number, experiment, entry.index, entry.encode()),
            )
            self._put_value("head", entry.number.to_bytes(8, "big") + entry.hash)
            self._write_seen(written)

        self._commit_when_possible(work)
        self._note_last(entry)
        self._note_head()
        if self._crash_after == entry.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry

    def begin_term(self, body: Mapping[str, Any], *, time: float) -> int | None:
        """Write that this start is under its term, before anything is said under it.

        Returns:
            The term before, where this one does not follow from it: a journal that was restored or cut goes on above
            all terms that may have been used. The entry names it (`after`).
        """
        before = None if self._begun is None else read_term(self._begun)
        jumps = before is not None and before + 1 != self.term
        told = {"term": self.term, **({"after": before} if jumps else {}), **body}
        values = {"term": str(self.term).encode()}
        self.append_entry(NO_EXPERIMENT, TERM, told, time=time, written=Written({}, {}, values=values))
        return before if jumps else None

    def note_written(self, written: Written) -> None:
        """Commit positions and ids alone."""
        self._commit_when_possible(lambda: self._write_seen(written))

    def seen_settled(self, identity: str) -> bool | None:
        """None: never seen; else whether it is settled."""
        row = self._db.execute("SELECT settled FROM seen WHERE id = ?", (identity,)).fetchone()
        return None if row is None else bool(row[0])

    def facts_of(self, identity: str) -> bytes | None:
        """Digest of what an event of this id said first, where it was signed."""
        row = self._db.execute("SELECT digest FROM facts WHERE id = ?", (identity,)).fetchone()
        return None if row is None else bytes(row[0])

    def position_of(self, queue: str) -> Position | None:
        """Where to resume a stream. Callable from any thread (a connection of its own)."""
        with contextlib.closing(open_reader(self.path)) as db:
            row = db.execute("SELECT offset, digest FROM positions WHERE queue = ?", (queue,)).fetchone()
        return None if row is None else Position(row[0], row[1])

    def get_value(self, key: str) -> bytes | None:
        """A value kept beside the entries (term, last sign of life, what was published)."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_value(self, key: str, value: bytes) -> None:
        """Keep a value."""
        self._commit_when_possible(lambda: self._put_value(key, value))

    def entries(self, *, after: int = 0) -> Iterator[Entry]:
        """Entries from a number on (unverified: opening has verified them)."""
        yield from entries_of(self._db, after)

    def close(self) -> None:
        """Close and free the lock."""
        self._db.close()
        for handle in (self._head, self._lock):
            with contextlib.suppress(OSError):
                os.close(handle)

    def _commit_when_possible(self, work: Callable[[], None]) -> None:
        """Do it in a transaction of its own; where there is no space, as soon as there is."""
        while True:
            try:
                with self._in_transaction():
                    work()
            except JournalDiskFull as error:
                self.on_full(error)
            else:
                return

    @contextlib.contextmanager
    def _in_transaction(self) -> Iterator[None]:
        """All or nothing; DiskFull where there is no space, and then nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._roll_back()
            if is_full(error):
                raise JournalDiskFull(
                    "the journal cannot be written: the disk is full or refuses it",
                    where=str(self.path),
                    advice="Free space on this disk: the coordinator goes on by itself",
                ) from None
            raise
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite may have rolled back by itself (https://sqlite.org/lang_transaction.html)
            self._db.execute("ROLLBACK")

    def _put_value(self, key: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _write_seen(self, written: Written) -> None:
        for identity, settled in written.seen.items():
            self._db.execute(
                "INSERT INTO seen VALUES (?, ?)"
                " ON CONFLICT (id) DO UPDATE SET settled = max(settled, excluded.settled)",
                (identity, int(settled)),
            )
        for identity, digest in written.facts.items():
            self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (identity, digest))
        for key, value in written.values.items():
            self._put_value(key, value)
        for queue, position in written.positions.items():
            self._db.execute(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (queue, position.offset, position.digest)
            )


def _give_up(error: JournalDiskFull) -> None:
    raise error


def lock_folder(folder: Path) -> int:
    """Take a state folder for oneself; returns what to close. NameTaken: a coordinator has it."""
    try:
        open_private_folder(folder)
        handle = os.open(folder / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RequestError(f"cannot be used ({error.strerror})", where=str(folder)) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise NameTaken(
            "another coordinator uses this journal", where=str(folder), advice="Stop the other one first"
        ) from None
    return handle


def write_anew(path: Path, entries: Iterable[Entry], seen: Mapping[str, bool], *, term: int) -> None:
    """Make a journal of these entries, which hold; without positions, so that the streams are read from their heads."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(_SCHEMA)
        db.execute(f"PRAGMA user_version = {LAYOUT}")
        db.execute("BEGIN")
        last: Entry | None = None
        for entry in entries:
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?)", (entry.number, entry.experiment, entry.index, entry.encode())
            )
            last = entry
        db.executemany("INSERT INTO seen VALUES (?, ?)", [(name, int(settled)) for name, settled in seen.items()])
        values = {"term": str(term).encode()}
        if last is not None:
            # Timers get the time back that has passed since.
            values |= {"head": last.number.to_bytes(8, "big") + last.hash, "alive": repr(last.time).encode()}
        db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())
        db.execute("COMMIT")


class AuditPosition:
    """How far the journal is in the broker's `audit` stream; used by the thread that publishes it there."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        # In WAL mode a commit is then not synced: what a power cut forgets is published twice, and readers know it.
        self._db.execute("PRAGMA synchronous = NORMAL")

    def read_number(self) -> int:
        """Number of the last entry whose publish was confirmed."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'audited'").fetchone()
        return int(row[0]) if row else 0

    def write_number(self, number: int) -> None:
        """Keep the number, if there is space: what is forgotten is published twice."""
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('audited', ?)", (str(number).encode(),))
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise

    def entries(self, after: int) -> Iterator[Entry]:
        """Entries still to be published."""
        yield from entries_of(self._db, after)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()
