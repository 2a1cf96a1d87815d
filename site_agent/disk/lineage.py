"""What the site took part with, kept at the site alone: its policy, its data, and which case went into which round.

Nothing of it is sent but two keyed digests (HMAC-SHA256, RFC 2104) in `joined`: of the policy in force, and of the data
set. A commitment is opened by showing text and key; whoever lacks the key cannot test a guess. Cases and patients are
kept as keyed hashes, too, under a key of their own. So what is destroyed here, a case or a key, nobody can link again.

A data state is stored once, and rounds refer to it: 1,000 cases take some 170 kB, and a round takes a line.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from messages.ground.durable import choose_synchronous
from messages.ground.errors import RequestError, WorkFailed
from site_agent.disk.known_jobs import read_jobs

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (name TEXT PRIMARY KEY, key BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS commitments (
    experiment TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL, content TEXT NOT NULL, key BLOB,
    time REAL NOT NULL, PRIMARY KEY (experiment, kind, digest)
) STRICT;
CREATE TABLE IF NOT EXISTS states (number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS members (
    state INTEGER NOT NULL, mark BLOB NOT NULL, patient BLOB NOT NULL, split TEXT NOT NULL,
    PRIMARY KEY (state, mark)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS current (experiment TEXT PRIMARY KEY, state INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    experiment TEXT NOT NULL, round INTEGER NOT NULL, state INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (experiment, round, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (
    experiment TEXT NOT NULL, round INTEGER NOT NULL, digest TEXT NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (experiment, round)
) STRICT, WITHOUT ROWID;
"""
KEY_BYTES = 32
_MARK_BYTES = 16
POLICY, DATA = "policy", "data"
"""What a commitment is of: its word in the `ext` of `joined`."""
_CASES = "cases"
FILE = "lineage.sqlite"
WAITS = 10.0
"""Seconds for another process that has the record open."""


def plain_name(name: str) -> str:
    """A file's or patient's name as text that can be encoded; what was not UTF-8 in it is escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def commit_to(key: bytes, kind: str, content: str) -> str:
    """The commitment to a text, as 64 hex digits: HMAC-SHA256 over a line that says of what it is, and the text."""
    return hmac.new(key, f"konsil {kind} 1\n{content}".encode(), sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class UsedIn:
    """A case that was used: its name and its patient's, its split, and the digest of its content (hex)."""

    case: str
    patient: str
    split: str
    digest: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """What the site has committed to. `key`: None once it was destroyed."""

    experiment: str
    kind: str
    digest: str
    content: str
    key: bytes | None
    time: float


@dataclass(frozen=True, slots=True)
class Went:
    """A round that a case went into.

    Attributes:
        split: "train": into the update; else into scores alone.
        model: digest of the model that the round made; "" where the site has not heard of it.
        used: whether the site's update is in that model; None: not heard.
    """

    experiment: str
    round: int
    split: str
    model: str
    used: bool | None


Draw = Callable[[int], bytes]


class Lineage:
    """The record under one state directory. Any thread; the agent and the operator's commands may have it open at once.

    All methods raise WorkFailed where the record cannot be written or read.

    Args:
        draw: so many random bytes, for keys; a simulation's follow from its seed.
    """

    def __init__(self, state: Path, draw: Draw = secrets.token_bytes) -> None:
        self._path, self._draw = state / FILE, draw
        self._guard = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def close(self) -> None:
        """Idempotent."""
        with self._guard:
            if self._db is not None:
                self._db.close()
                self._db = None

    def require_sound(self) -> None:
        """Raise WorkFailed where the record is damaged, before anything relies on it; a missing one is none."""
        if not self._path.exists():
            return
        try:
            with self._transaction() as db:
                found = " ".join(str(db.execute("PRAGMA quick_check(1)").fetchone()[0]).split())
        except WorkFailed as error:
            if not isinstance(error.__cause__, sqlite3.DatabaseError) or isinstance(
                error.__cause__, sqlite3.OperationalError
            ):
                raise
            found = str(error.__cause__)
        if found != "ok":
            raise WorkFailed(
                f"the record of which case went where is damaged ({found})",
                where=str(self._path),
                advice="Restore it from a backup, or move it away: what went into earlier rounds is then not on record",
            )

    def _key_of(self, db: sqlite3.Connection, name: str) -> bytes:
        db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (name, self._draw(KEY_BYTES)))
        return bytes(db.execute("SELECT key FROM keys WHERE name = ?", (name,)).fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self, *, erases: bool = False) -> Iterator[sqlite3.Connection]:
        """All or nothing. `erases`: nothing of what is deleted is left in the file or in its log once this returns."""
        with self._guard:
            try:
                db = self._open()
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.execute("COMMIT")
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                if erases and db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    raise WorkFailed(
                        "what was erased is still in its log: another command reads it",
                        where=str(self._path),
                        advice="End that command, and erase once more",
                    )
            except sqlite3.Error as error:
                raise WorkFailed(
                    f"the record of which case went where cannot be used ({error})",
                    where=str(self._path),
                    advice="Free disk space under the state directory, or give the file to the agent's user",
                ) from error

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.touch(mode=0o600, exist_ok=True)
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=WAITS)
            # A commit is one fdatasync, and not five as with a journal that is made and deleted each time.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={choose_synchronous()}")
            self._db.execute("PRAGMA secure_delete=ON")  # what is erased is overwritten
            self._db.executescript(_SCHEMA)
        return self._db

    # what the agent notes

    def note_joining(
        self, experiment: str, policy: Mapping[str, Any], cases: Iterable[UsedIn], fingerprint: str, now: float
    ) -> dict[str, str]:
        """Keep policy and data that the site is about to join with; the digests that it may tell, by what they are of.

        Args:
            policy: as plain types.
            fingerprint: over the data and their preprocessing (hex), where the trainer names no cases.
            now: Unix time.
        """
        used = tuple(cases)
        with self._transaction() as db:
            self._keep_state(db, experiment, used)
            text = json.dumps(policy, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
            lines = "\n".join(sorted(f"{one.split} {one.digest}" for one in used)) or fingerprint
            return {
                POLICY: _commit(db, experiment, POLICY, text, self._draw(KEY_BYTES), now, own=True),
                DATA: _commit(db, experiment, DATA, lines, self._key_of(db, DATA), now, own=False),
            }

    def note_state(self, experiment: str, cases: Iterable[UsedIn]) -> None:
        """Keep the data as they were read again in mid-experiment."""
        with self._transaction() as db:
            self._keep_state(db, experiment, tuple(cases))

    def _keep_state(self, db: sqlite3.Connection, experiment: str, used: tuple[UsedIn, ...]) -> None:
        if not used:
            db.execute("DELETE FROM current WHERE experiment = ?", (experiment,))
            return
        key = self._key_of(db, _CASES)
        rows = sorted((_mark(key, one.case), _mark(key, one.patient), one.split, one.digest) for one in used)
        digest = sha256(repr(rows).encode()).digest()
        found = db.execute("SELECT number FROM states WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            number = db.execute("INSERT INTO states (digest) VALUES (?)", (digest,)).lastrowid
            db.executemany("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?)", [(number, *row[:3]) for row in rows])
        else:
            number = int(found[0])
        db.execute("INSERT OR REPLACE INTO current VALUES (?, ?)", (experiment, number))

    def note_round(self, experiment: str, round_number: int, now: float) -> None:
        """The data of the experiment, as they were last read, go into a round: before any of it leaves."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO rounds SELECT ?, ?, state, ? FROM current WHERE experiment = ?",
                (experiment, round_number, now, experiment),
            )

    def note_model(
        self, experiment: str, round_number: int, digest: str, *, used: bool, began: int | None = None
    ) -> None:
        """What a round made, and whether the site's update is in it. `began`: the earlier round that it was trained
        for, whose data went into this one then."""
        with self._transaction() as db:
            if used and began not in (None, round_number):
                db.execute(
                    "INSERT OR IGNORE INTO rounds SELECT experiment, ?, state, time FROM rounds "
                    "WHERE experiment = ? AND round = ?",
                    (round_number, experiment, began),
                )
            db.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)", (experiment, round_number, digest, used))

    def prune_old(self, before: float) -> None:
        """Forget what is older than a moment (Unix time): rounds, what they made, and commitments."""
        with self._transaction(erases=True) as db:
            db.execute("DELETE FROM rounds WHERE time < ?", (before,))
            db.execute("DELETE FROM commitments WHERE time < ?", (before,))
            _sweep(db)

    # what the operator asks

    def list_commitments(self, experiment: str | None = None) -> list[Commitment]:
        """What the site has committed to, oldest first."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT experiment, kind, digest, content, key, time FROM commitments "
                "WHERE ?1 IS NULL OR experiment = ?1 ORDER BY time, experiment, kind",
                (experiment,),
            ).fetchall()
            data = db.execute("SELECT key FROM keys WHERE name = ?", (DATA,)).fetchone()
        found = [Commitment(*row) for row in rows]
        shared = None if data is None else bytes(data[0])
        return [_with_key(one, shared) if one.kind == DATA else one for one in found]

    def trace_case(self, names: Iterable[str]) -> list[Went]:
        """Every round that a case went into, or any case of a patient.

        Args:
            names: of the case or patient; several where it has several.
        """
        with self._transaction() as db:
            key = db.execute("SELECT key FROM keys WHERE name = ?", (_CASES,)).fetchone()
            if key is None:
                return []
            found: set[Went] = set()
            for name in names:
                mark = _mark(bytes(key[0]), plain_name(name))
                found |= {
                    Went(experiment, number, split, digest or "", None if used is None else bool(used))
                    for experiment, number, split, digest, used in db.execute(_TRACE, (mark, mark))
                }
        return sorted(found, key=lambda one: (one.experiment, one.round, one.split))

    def trace_heirs(self, went: Iterable[Went], begins: Mapping[str, str]) -> list[str]:
        """Experiments that begin with a model which a case went into, or with one of those: it is in all their models.

        Args:
            went: of the case.
            begins: experiment → `net.from` of its file (`read_beginnings`).
        """
        first: dict[str, int] = {}
        for one in went:
            if one.split == "train" and one.used is not False:
                first[one.experiment] = min(one.round, first.get(one.experiment, one.round))
        with self._transaction() as db:
            models = db.execute("SELECT experiment, round, digest FROM models").fetchall()
        found: list[str] = []
        while True:
            held = {digest for name, number, digest in models if name in first and number >= first[name]}
            heirs = [
                name
                for name, origin in begins.items()
                if name not in found and (origin in first or origin.partition(":")[2] in held)
            ]
            if not heirs:
                return sorted(found)
            found += heirs
            first |= dict.fromkeys(heirs, 1)

    def forget_case(self, names: Iterable[str]) -> int:
        """Destroy what links a case, or a patient's cases, with any round; how many links there were.

        The digests of the experiments' data go, too: the case's own is among them.
        """
        with self._transaction(erases=True) as db:
            key = db.execute("SELECT key FROM keys WHERE name = ?", (_CASES,)).fetchone()
            gone = 0
            for name in names if key is not None else ():
                mark = _mark(bytes(key[0]), plain_name(name))
                found = db.execute("SELECT DISTINCT state FROM members WHERE mark = ? OR patient = ?", (mark, mark))
                for (state,) in found.fetchall():
                    _blank_state(db, state)
                gone += db.execute("DELETE FROM members WHERE mark = ? OR patient = ?", (mark, mark)).rowcount
        return gone

    def destroy_keys(self) -> int:
        """Destroy every key: marks of cases and commitments are noise after it. How many keys there were.

        What is noted from then on has fresh keys.
        """
        with self._transaction(erases=True) as db:
            gone = db.execute("UPDATE commitments SET key = NULL WHERE key IS NOT NULL").rowcount
            db.execute("UPDATE commitments SET content = '' WHERE kind = ?", (DATA,))  # digests of images
            gone += db.execute("DELETE FROM keys").rowcount
        return gone


_TRACE = """
SELECT rounds.experiment, rounds.round, members.split, models.digest, models.used
FROM members JOIN rounds ON rounds.state = members.state
LEFT JOIN models ON models.experiment = rounds.experiment AND models.round = rounds.round
WHERE members.mark = ? OR members.patient = ?
"""


def read_lineage(state: Path) -> Lineage:
    """The record of a site whose agent has worked; RequestError where there is none."""
    if not (state / FILE).exists():
        raise RequestError(
            "no agent has noted here which cases it used",
            where=str(state),
            advice="Look at site.state; an agent notes it from its next join on",
        )
    return Lineage(state)


def read_beginnings(state: Path) -> dict[str, str]:
    """Experiment → the model that its file begins with (`net.from`), of those that the agent knows and that name one.

    Raises:
        WorkFailed: the agent's record cannot be read.
    """
    named = {job.experiment: job.file.get("net", {}).get("from") for job in read_jobs(state)}
    return {experiment: origin for experiment, origin in named.items() if isinstance(origin, str)}


def _with_key(one: Commitment, key: bytes | None) -> Commitment:
    """With the key that all data commitments share, as long as it is the one of that time."""
    fits = key is not None and hmac.compare_digest(commit_to(key, one.kind, one.content), one.digest)
    return Commitment(one.experiment, one.kind, one.digest, one.content, key if fits else None, one.time)


def _commit(
    db: sqlite3.Connection, experiment: str, kind: str, content: str, key: bytes, now: float, *, own: bool
) -> str:
    """The commitment to a content; the one there is, where the same was committed to for this experiment.

    Args:
        own: the key is this commitment's own, and kept with it; else others share it.
    """
    known = db.execute(
        "SELECT digest, key FROM commitments WHERE experiment = ? AND kind = ? AND content = ?",
        (experiment, kind, content),
    ).fetchall()
    for digest, kept in known:
        if (kept is not None) if own else digest == commit_to(key, kind, content):
            return str(digest)
    digest = commit_to(key, kind, content)
    row = (experiment, kind, digest, content, key if own else None, now)
    db.execute("INSERT OR REPLACE INTO commitments VALUES (?, ?, ?, ?, ?, ?)", row)  # its content may have been erased
    return digest


def _blank_state(db: sqlite3.Connection, state: int) -> None:
    """A data state that lacks a case from now on: the same data are another state when they are read again, and what
    was committed to of them cannot be shown any more."""
    db.execute("UPDATE states SET digest = ? WHERE number = ?", (secrets.token_bytes(KEY_BYTES), state))
    users = db.execute(
        "SELECT experiment FROM rounds WHERE state = ?1 UNION SELECT experiment FROM current WHERE state = ?1", (state,)
    ).fetchall()
    if not users:  # who joined with it has read other data before the first round, and nobody knows who it was
        db.execute("UPDATE commitments SET content = '' WHERE kind = ?", (DATA,))
    db.executemany(
        "UPDATE commitments SET content = '' WHERE kind = ?2 AND content IN "
        "(SELECT content FROM commitments WHERE kind = ?2 AND experiment = ?1)",
        [(experiment, DATA) for (experiment,) in users],
    )


def _mark(key: bytes, name: str) -> bytes:
    """What stands for a case or patient in the record: 128 bits of HMAC-SHA256 under the site's key for it."""
    return hmac.new(key, b"konsil case 1\n" + name.encode(), sha256).digest()[:_MARK_BYTES]


def _sweep(db: sqlite3.Connection) -> None:
    """Remove what no round and no experiment on record refers to."""
    db.execute(
        "DELETE FROM current WHERE experiment NOT IN (SELECT experiment FROM rounds) AND experiment NOT IN "
        "(SELECT experiment FROM commitments)"
    )
    db.execute(
        "DELETE FROM states WHERE number NOT IN (SELECT state FROM rounds) AND number NOT IN "
        "(SELECT state FROM current)"
    )
    db.execute("DELETE FROM members WHERE state NOT IN (SELECT number FROM states)")
    db.execute("DELETE FROM models WHERE (experiment, round) NOT IN (SELECT experiment, round FROM rounds)")
