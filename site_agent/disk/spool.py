"""The site's durable in- and outbox: agenda, stream positions, events seen, events to be receipted; and the files.

SQLite with WAL and synchronous=FULL: what is committed survives a power cut. What belongs together (an event's
effect on the agenda, the position of the stream it came by, what is said about it) is one transaction.
Models and updates are files beside it, named by their transfer.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgpack

from messages.bus.base import Position
from messages.envelope import Event
from messages.ground.durable import choose_synchronous, open_private_folder
from messages.ground.errors import ConfigError, RequestError, WorkFailed
from messages.tensors.transfer import TransferKey
from site_agent.core.jobs import Agenda, Job
from site_agent.disk import secure_rows
from site_agent.disk.privacy_ledger import SCHEMA as PRIVACY_SCHEMA
from site_agent.disk.privacy_ledger import PrivacyLedger
from site_agent.disk.room import room_left, used_bytes
from site_agent.disk.secret import secret_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS positions (queue TEXT PRIMARY KEY, offset INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, time REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS jobs (experiment TEXT PRIMARY KEY, state BLOB NOT NULL, changed REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, experiment TEXT NOT NULL,
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, key TEXT NOT NULL, raw BLOB NOT NULL, time REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, experiment TEXT NOT NULL,
    round INTEGER NOT NULL, bytes INTEGER NOT NULL, digest TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS ledger_ids ON ledger (id);
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, what TEXT NOT NULL, experiment TEXT NOT NULL, login TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS heard (id TEXT PRIMARY KEY, raw BLOB NOT NULL, time REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evidence (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, first BLOB NOT NULL,
    second BLOB NOT NULL
) STRICT;
"""
JUMPS, MOST_JUMPS = "term-jumps", 16
"""Where terms are kept that did not follow from the one before, and how many."""
SEEN_KEPT = 90 * 86400.0
"""Seconds that an event's id is remembered: longer than the broker keeps, or a standing repeats, an event."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits for its receipt."""

    id: str
    kind: str
    experiment: str
    round: int
    attempt: int
    key: str
    raw: bytes
    number: int = 0
    """Its place in the outbox; it grows from event to event as long as the spool is open."""


class Spool:
    """One site's spool; opened by one agent at a time (flock on the state directory).

    Args:
        state: the state directory; made if missing, for its owner only.

    Raises:
        RequestError: another agent works on this state directory.
        ConfigError: the directory cannot be made or written.
        WorkFailed: the spool's database is damaged.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.globals = state / "globals"
        self.updates = state / "updates"
        self.cache = state / "cache"
        try:
            for folder in (state, self.globals, self.updates, self.cache, state / "logs"):
                open_private_folder(folder)
            self._lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot be written ({error.strerror})",
                where=str(error.filename or state),
                advice="Give the agent's user write access, or change site.state",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise RequestError(
                "another agent works on this state directory",
                where=str(state),
                advice="Stop it first, or give this one a directory of its own",
            ) from None
        self._guard = threading.RLock()
        self._nested = False
        self._posted = 0
        """The highest place that was given: SQLite would give that of an event that has gone once more."""
        try:
            self._db = sqlite3.connect(state / "spool.sqlite", isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={choose_synchronous()}")
            self._db.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten: secrets of rounds
            self._db.executescript(_SCHEMA + secure_rows.SCHEMA + PRIVACY_SCHEMA)
            if "digest" not in {row[1] for row in self._db.execute("PRAGMA table_info(ledger)")}:  # 0.1 kept none
                self._db.execute("ALTER TABLE ledger ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            _refuse_foreign(error, state)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                # The file is sound: to move it away would lose what waits in it.
                raise WorkFailed(
                    f"the spool cannot be written ({error})",
                    where=str(state / "spool.sqlite"),
                    advice="Free space on this disk, or mend it, and start again; leave the file where it is",
                ) from None
            raise WorkFailed(
                f"the spool cannot be read ({error})",
                where=str(state / "spool.sqlite"),
                advice="Move the file away: the coordinator tells the agent where the experiments are",
            ) from None
        self.privacy = PrivacyLedger(self._db, self._guard)
        self.secure = secure_rows.SecureRows(self._db, self._guard, self.transaction)
        """What is kept of secure rounds."""
        self._posted = int(self._db.execute("SELECT coalesce(max(number), 0) FROM outbox").fetchone()[0])
        self.before = self._get_number("incarnation"), self._get_number("seq")
        """Incarnation and sequence number of the newest event that this disk knew of as it was opened."""
        self.incarnation = self._bump_number("incarnation")
        self._set_number("seq", 0)

    def close(self) -> None:
        """Close the database and free the directory. Idempotent."""
        with self._guard:
            if self._lock < 0:
                return
            self._db.close()
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; the outermost one commits.

        Raises:
            WorkFailed: the disk is full or broken; nothing was stored.
        """
        with self._guard:
            if self._nested:
                yield
                return
            self._nested = True
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                _refuse_foreign(error, self.state)
                raise WorkFailed(
                    f"the spool cannot be written ({error})",
                    where=str(self.state / "spool.sqlite"),
                    advice="Free disk space under the state directory",
                ) from error
            finally:
                self._nested = False
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    # numbers

    def _get_number(self, key: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def _set_number(self, key: str, value: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _bump_number(self, key: str) -> int:
        with self.transaction():
            value = self._get_number(key) + 1
            self._set_number(key, value)
            return value

    def next_seq(self) -> int:
        """The next gapless sequence number of this incarnation; call it in the transaction that stores the event."""
        return self._bump_number("seq")

    @property
    def place(self) -> tuple[int, int]:
        """Incarnation and sequence number of this start's newest event."""
        with self._guard:
            return self.incarnation, self._get_number("seq")

    @property
    def own_starts(self) -> int:
        """The incarnation, without what it was lifted by because somebody said so."""
        with self._guard:
            return self.incarnation - self._get_number("lifted")

    def go_on_above(self, incarnation: int) -> None:
        """Count as a later start than that; inside a transaction."""
        with self._guard:
            before, self.incarnation = self.incarnation, max(self.incarnation, incarnation + 1)
            self._set_number("lifted", self._get_number("lifted") + self.incarnation - before)
            self._set_number("incarnation", self.incarnation)
            self._set_number("seq", 0)
            self.before = self.incarnation, 0  # what is heard of earlier lives from now on is below this one

    @property
    def term(self) -> int:
        """The coordinator's term, as last believed."""
        with self._guard:
            return self._get_number("term")

    def find_term(self, keys: Collection[str] | None) -> int:
        """The highest term that was said under one of these keys; None: without a signature that was checked."""
        if keys is None:
            return self.term
        with self._guard:
            return max((self._get_number(f"term:{key}") for key in keys), default=0)

    def note_term(self, term: int, key: str | None) -> None:
        """Remember a term that is not below the one that is believed, and under which key it was said."""
        with self._guard:
            self._set_number("term", term)
            if key is not None:
                self._set_number(f"term:{key}", term)

    def note_jump(self, before: int, after: int) -> None:
        """Remember that a term did not follow from the one before."""
        kept = [*self.list_jumps(), (before, after)][-MOST_JUMPS:]
        self.put_kept(JUMPS, msgpack.packb(kept))

    def list_jumps(self) -> list[tuple[int, int]]:
        """Terms that did not follow, each with the one before it; the last ones."""
        kept = self.get_kept(JUMPS)
        return [] if kept is None else [(before, after) for before, after in msgpack.unpackb(kept)]

    def get_kept(self, key: str) -> bytes | None:
        """Bytes that are kept under a name: the newest register, the digest of our last event."""
        with self._guard:
            row = self._db.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_kept(self, key: str, value: bytes) -> None:
        """Keep bytes under a name; WorkFailed on a full disk."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (key, value))

    # streams and what was seen

    def position_of(self, queue: str) -> Position | None:
        """Where to resume a stream."""
        with self._guard:
            row = self._db.execute("SELECT offset, digest FROM positions WHERE queue = ?", (queue,)).fetchone()
        return Position(row[0], row[1]) if row else None

    def set_position(self, queue: str, position: Position) -> None:
        """Remember the last message whose content is stored; WorkFailed on a full disk."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", (queue, position.offset, position.digest)
            )

    def note_seen(self, identity: str, now: float) -> bool:
        """Remember an event's id; False where it was seen before."""
        with self._guard:
            done = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (identity, now))
            return done.rowcount > 0

    def note_heard(self, event: Event, now: float) -> bytes | None:
        """Keep a signed event of the coordinator as it came; returns what was kept under its id before."""
        with self._guard:
            row = self._db.execute("SELECT raw FROM heard WHERE id = ?", (event.id,)).fetchone()
            if row is None:
                self._db.execute("INSERT INTO heard VALUES (?, ?, ?)", (event.id, event.raw, now))
            return None if row is None else bytes(row[0])

    def keep_evidence(self, identity: str, reason: str, first: bytes, second: bytes, now: float) -> None:
        """Keep two signed messages that contradict each other, for ever."""
        with self._guard:
            self._db.execute(
                "INSERT INTO evidence (time, id, reason, first, second) VALUES (?, ?, ?, ?, ?)",
                (now, identity, reason, first, second),
            )

    def list_evidence(self) -> list[tuple[str, str, bytes, bytes]]:
        """Id, reason and both messages of each contradiction, the first to come first."""
        with self._guard:
            rows = self._db.execute("SELECT id, reason, first, second FROM evidence ORDER BY number").fetchall()
        return [(row[0], row[1], bytes(row[2]), bytes(row[3])) for row in rows]

    # agenda

    def load_agenda(self, site: str) -> Agenda:
        """The agenda as it was stored."""
        with self._guard:
            rows = self._db.execute("SELECT state FROM jobs ORDER BY rowid").fetchall()
            paused = bool(self._get_number("paused"))
        jobs = [Job.model_validate(msgpack.unpackb(row[0])) for row in rows]
        return Agenda(site=site, jobs={job.experiment: job for job in jobs}, paused=paused)

    def store_agenda(self, before: Agenda, after: Agenda, now: float) -> None:
        """Store what changed."""
        with self._guard:
            for name, job in after.jobs.items():
                if before.jobs.get(name) is not job:
                    state = msgpack.packb(job.model_dump(mode="python"))
                    self._db.execute(
                        "INSERT INTO jobs VALUES (?, ?, ?) ON CONFLICT (experiment) DO UPDATE SET "
                        "state = excluded.state, changed = excluded.changed",
                        (name, state, now),
                    )
            if before.paused != after.paused:
                self._set_number("paused", int(after.paused))

    def changed_at(self, experiment: str) -> float:
        """When a job last changed, seconds since 1970."""
        with self._guard:
            row = self._db.execute("SELECT changed FROM jobs WHERE experiment = ?", (experiment,)).fetchone()
        return float(row[0]) if row else 0.0

    # outbox

    def post_event(self, event: Event, attempt: int = 1) -> None:
        """Put a history event into the outbox; an event that is there stays as it is."""
        with self._guard:
            self._posted += 1
            self._db.execute(
                "INSERT OR IGNORE INTO outbox (number, id, kind, experiment, round, attempt, key, raw, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._posted, event.id, event.kind, event.experiment, event.round, attempt, event.key, event.raw,
                    event.time,
                ),
            )  # fmt: skip

    def replace_event(self, waiting: Waiting, raw: bytes) -> None:
        """Say a waiting event in other bytes: it was written before the site had its key."""
        with self.transaction():
            self._db.execute("UPDATE outbox SET raw = ? WHERE id = ?", (raw, waiting.id))

    def list_waiting(self, after: int = 0, until: int | None = None, limit: int = -1) -> list[Waiting]:
        """What waits for its receipt, oldest first.

        Args:
            after, until: places in the outbox, the first left out and the last one in; None: to its end.
            limit: events at most; -1: all.
        """
        with self._guard:
            rows = self._db.execute(
                "SELECT id, kind, experiment, round, attempt, key, raw, number FROM outbox "
                "WHERE number > ? AND number <= ? ORDER BY number LIMIT ?",
                (after, 2**62 if until is None else until, limit),
            ).fetchall()
        return [Waiting(*row) for row in rows]

    def count_waiting(self) -> int:
        """How many events wait for their receipt."""
        with self._guard:
            return int(self._db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def take_receipted(self, identity: str, now: float) -> Waiting | None:
        """Take an event out of the outbox and note in the ledger what left the site; None where it was not there."""
        with self._guard:
            row = self._db.execute(
                "SELECT id, kind, experiment, round, attempt, key, raw FROM outbox WHERE id = ?", (identity,)
            ).fetchone()
            if row is None:
                return None
            event = Waiting(*row)
            self._db.execute("DELETE FROM outbox WHERE id = ?", (identity,))
            digest = sha256(event.raw).hexdigest()
            self._enter_in_ledger(now, event.id, event.kind, event.experiment, event.round, len(event.raw), digest)
            return event

    def note_leaving(self, key: TransferKey, size: int, now: float, seal: str = "") -> None:
        """Note in the ledger that an update of so many bytes begins to leave the site; once an attempt and content.

        Args:
            seal: of the whole update; empty: it is not whole yet, and its seal is noted once it is.

        Raises:
            WorkFailed: the disk is full or broken.
        """
        with self.transaction():
            noted = {row[0] for row in self._db.execute("SELECT digest FROM ledger WHERE id = ?", (key.stem,))}
            if not noted or (seal and not noted & {"", seal}):
                self._enter_in_ledger(now, key.stem, "update", key.experiment, key.round, size, seal)
            elif seal and seal not in noted:
                self._db.execute("UPDATE ledger SET digest = ? WHERE id = ? AND digest = ''", (seal, key.stem))

    def _enter_in_ledger(self, *row: float | str) -> None:
        self._db.execute(
            "INSERT INTO ledger (time, id, kind, experiment, round, bytes, digest) VALUES (?, ?, ?, ?, ?, ?, ?)", row
        )

    def note_order(self, now: float, what: str, experiment: str, login: str) -> None:
        """Keep that a person ordered something here."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO orders (time, what, experiment, login) VALUES (?, ?, ?, ?)", (now, what, experiment, login)
            )

    def prune_old(self, now: float, ledger_kept: float) -> None:
        """Forget what is older than its retention."""
        with self.transaction():
            self._db.execute("DELETE FROM seen WHERE time < ?", (now - SEEN_KEPT,))
            self._db.execute("DELETE FROM heard WHERE time < ?", (now - SEEN_KEPT,))
            self._db.execute("DELETE FROM ledger WHERE time < ?", (now - ledger_kept,))
            self._db.execute("DELETE FROM orders WHERE time < ?", (now - ledger_kept,))

    # files

    def global_file(self, key: TransferKey) -> Path:
        """Where a complete global model lies."""
        return self.globals / f"{key.stem}.model"

    def update_file(self, experiment: str, round_number: int, site: str, attempt: int) -> Path:
        """Where a complete update lies."""
        return self.updates / f"{TransferKey(experiment, round_number, site, attempt).stem}.update"

    def trained_file(self, experiment: str, round_number: int, site: str, attempt: int) -> Path:
        """Where what was trained in a secure round lies; it never leaves."""
        return self.updates / f"{TransferKey(experiment, round_number, site, attempt).stem}.trained"

    def words_file(self, experiment: str, round_number: int, site: str, attempt: int) -> Path:
        """Where its difference lies as whole numbers, before any mask; it never leaves either."""
        return self.updates / f"{TransferKey(experiment, round_number, site, attempt).stem}.words"

    def free_files(self, experiment: str, up_to: int | None) -> None:
        """Remove models and updates of an experiment up to a round; None: all."""
        for folder in (self.globals, self.updates):
            for path in folder.glob(f"{experiment}.*"):
                number = path.name.removeprefix(f"{experiment}.").partition(".")[0]
                if number.isdigit() and (up_to is None or int(number) <= up_to):
                    path.unlink(missing_ok=True)

    def free_left_over(self, ended: Collection[str]) -> None:
        """Remove what an agent that was killed as experiments ended did not come to remove."""
        for folder in (self.globals, self.updates):
            for path in folder.iterdir():
                if path.name.partition(".")[0] in ended:
                    path.unlink(missing_ok=True)

    def cache_of(self, experiment: str) -> Path:
        """The trainer's folder for one experiment."""
        return self.cache / experiment

    def used_bytes(self) -> int:
        """Bytes under the state directory."""
        return used_bytes(self.state)

    def room_left(self, limit: int | None) -> int:
        """Bytes that may still be written: the operator's limit and what the disk has."""
        return room_left(self.state, limit)

    def site_secret(self) -> bytes:
        """The site's secret (32 bytes, for keyed hashes); made at first use, never sent or logged."""
        return secret_of(self.state)

    def count_rows(self) -> Mapping[str, int]:
        """Rows of each table, for `status` and tests."""
        tables = ("seen", "jobs", "outbox", "ledger")
        with self._guard:
            return {name: int(self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in tables}


def read_kept(state: Path, key: str) -> bytes | None:
    """What a spool keeps under a name, while its agent may be running; RequestError where there is no spool."""
    place = state / "spool.sqlite"
    try:
        with contextlib.closing(sqlite3.connect(f"{place.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            row = db.execute("SELECT value FROM kept WHERE key = ?", (key,)).fetchone()
    except sqlite3.Error as error:
        raise RequestError(f"the spool cannot be read ({error})", where=str(place)) from None
    return None if row is None else bytes(row[0])


def _refuse_foreign(error: sqlite3.Error, state: Path) -> None:
    """Raise ConfigError where the database may not be written by this user."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        raise ConfigError(
            f"the spool cannot be written ({error})",
            where=str(state / "spool.sqlite"),
            advice="Give it and the files beside it to the agent's user; leave them where they are",
        ) from None
