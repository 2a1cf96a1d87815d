"""Clean objects on disk until their study is a case: `FOLDER/STUDY/SERIES/SOP.dcm` and an index, in pseudonyms only.

An object is written beside its place and renamed, then entered: a file without its entry is written again by the next
`put`, an entry without its whole file does not count. So a kill at any point loses at most the object at hand, and a
power cut those whose digest does not fit any more, which `open` notices. Several processes may read while one writes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from messages.ground.durable import replace_file
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.vault import Damaged, Vault
from site_agent.dicom.base import Object, Refused
from site_agent.dicom.door.door import Admitted
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.roles.assignment import Facts

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    sop TEXT PRIMARY KEY, study TEXT NOT NULL, series TEXT NOT NULL, bytes INTEGER NOT NULL, digest BLOB NOT NULL,
    facts TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_study ON object (study, series);
CREATE TABLE IF NOT EXISTS announced (
    study TEXT NOT NULL, series TEXT NOT NULL, instances INTEGER NOT NULL, PRIMARY KEY (study, series)
) STRICT, WITHOUT ROWID;
"""
_PURPOSE = "spool"
_PREAMBLE = bytes(128)
"""Begins every file that is not encrypted (PS3.10, 7.1)."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Written:
    """An object that passed the door, as a file's content; else as `door.Admitted`."""

    study: str
    series: str
    sop: str
    facts: Facts
    content: bytes


def written(admitted: Admitted) -> Written:
    """Raises Refused (UNREADABLE) where an object cannot be written."""
    return Written(admitted.study, admitted.series, admitted.sop, admitted.facts, encoded(admitted.object))


class Spool:
    """One data set's spool. A context manager; several threads may use it.

    Args:
        folder: made if missing, for its owner only.
        pseudonyms: the site's.
        secret: the site's own, where objects are to lie encrypted; those that do are read in any case.

    Raises:
        DataError: the folder cannot be made, or the index cannot be opened.
    """

    def __init__(self, folder: Path, pseudonyms: Pseudonyms, *, secret: bytes | None = None) -> None:
        self.folder = folder
        self._pseudonyms = pseudonyms
        self._vault = Vault(pseudonyms.secret, _PURPOSE)
        self._seals = secret is not None
        self._guard = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = _opened(folder / "index.sqlite")
        except (OSError, sqlite3.OperationalError) as error:
            raise _cannot(folder, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the index. Idempotent."""
        with self._guard:
            self._db.close()

    def has(self, sop_uid: str) -> bool:
        """Whether an object is there, by its SOP Instance UID as the source has it."""
        return self._there(self._pseudonyms.uid(sop_uid))

    def put(self, admitted: Admitted) -> bool:
        """Keep an object; False where one of its UID is there already, which stays.

        Raises:
            OSError: the disk is full. DataError: the index cannot be written.
        """
        return not self._there(admitted.sop) and self.keep(written(admitted))

    def keep(self, clean: Written) -> bool:
        """`put` of what is encoded already."""
        if self._there(clean.sop):
            return False
        path, content = self._path(clean.study, clean.series, clean.sop), clean.content
        if self._seals:
            content = self._vault.seal(content)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content, mode=0o600)
        facts = json.dumps(clean.facts.plain(), sort_keys=True)
        row = (clean.sop, clean.study, clean.series, len(content), _digest(content), facts)
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)", row)
        return True

    def announce(self, study: str, series: str, instances: int | None) -> None:
        """Remember how many instances the source says that a series has; pseudonyms, as `Admitted` has them."""
        if instances is not None:
            with self._writing() as db:
                db.execute("INSERT OR REPLACE INTO announced VALUES (?, ?, ?)", (study, series, instances))

    def announced(self, study: str) -> dict[str, int]:
        """Series → instances that the source says it has, where it did."""
        return dict(self._read("SELECT series, instances FROM announced WHERE study = ?", study))

    def studies(self) -> list[str]:
        """Every study of which something is there."""
        return [study for (study,) in self._read("SELECT DISTINCT study FROM object ORDER BY study")]

    def series(self, study: str) -> dict[str, list[Path]]:
        """Series → files of its objects that are there, in the order of their UIDs; `open` reads one."""
        found: dict[str, list[Path]] = {}
        rows = self._read("SELECT series, sop, bytes FROM object WHERE study = ? ORDER BY series, sop", study)
        for series, sop, size in rows:
            path = self._path(study, series, sop)
            if _whole(path, size):
                found.setdefault(series, []).append(path)
        return found

    def facts(self, study: str) -> dict[str, Facts]:
        """Series → what most of its objects said of it (of equally many, the first in writing).

        Raises:
            DataError: another version of the software wrote them.
        """
        said: dict[str, Counter[str]] = {}
        rows = self._read("SELECT series, facts, COUNT(*) FROM object WHERE study = ? GROUP BY series, facts", study)
        for series, facts, count in rows:
            said.setdefault(series, Counter())[facts] = count
        chosen = {series: min(counts, key=lambda facts: (-counts[facts], facts)) for series, counts in said.items()}
        return {series: Facts.read(json.loads(facts)) for series, facts in chosen.items()}

    def open(self, path: Path) -> bytes:
        """A file's content, decrypted where it is encrypted.

        Raises:
            Refused: UNREADABLE: it is gone or damaged; it does not count as there any more.
            DataError: the index cannot be read or written.
        """
        rows = self._read("SELECT digest FROM object WHERE sop = ?", path.stem)
        try:
            content = path.read_bytes()
            if not rows or rows[0][0] != _digest(content):
                raise Damaged
            return content if content.startswith(_PREAMBLE) else self._vault.open(content)
        except (OSError, Damaged):
            with self._writing() as db:
                db.execute("DELETE FROM object WHERE sop = ?", (path.stem,))
            raise Refused(Reason.UNREADABLE, "an object in the spool is damaged; it is fetched again") from None

    def load(self, path: Path) -> Object:
        """`open`, as a pydicom Dataset."""
        import pydicom

        return pydicom.dcmread(BytesIO(self.open(path)))

    def drop(self, study: str) -> None:
        """Forget a study and remove its files: the entries first, so that none without a file counts."""
        with self._writing() as db:
            db.execute("DELETE FROM object WHERE study = ?", (study,))
            db.execute("DELETE FROM announced WHERE study = ?", (study,))
        shutil.rmtree(self.folder / study, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a kill left: files without an entry, entries without a file. For the one process that writes."""
        known = set()
        gone = []
        for study, series, sop, size in self._read("SELECT study, series, sop, bytes FROM object"):
            path = self._path(study, series, sop)
            if _whole(path, size):
                known.add(path)
            else:
                gone.append((sop,))
        with self._writing() as db:
            db.executemany("DELETE FROM object WHERE sop = ?", gone)
        for path in self.folder.glob("*/*/*"):
            if path not in known:
                path.unlink(missing_ok=True)
        for folder in (*self.folder.glob("*/*/"), *self.folder.glob("*/")):
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()

    def _path(self, study: str, series: str, sop: str) -> Path:
        return self.folder / study / series / f"{sop}.dcm"

    def _there(self, sop: str) -> bool:
        rows = self._read("SELECT study, series, bytes FROM object WHERE sop = ?", sop)
        return any(_whole(self._path(study, series, sop), size) for study, series, size in rows)

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            with self._guard:
                return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _cannot(self.folder, error) from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _cannot(self.folder, error) from None


def encoded(clean: Object) -> bytes:
    """An object as a DICOM file (PS3.10, 7.1); nothing in preamble and file meta information but what must be."""
    from pydicom import dcmwrite

    buffer = BytesIO()
    try:
        dcmwrite(buffer, clean, enforce_file_format=True)
    except Exception:  # noqa: BLE001 - pydicom raises anything for values that do not fit, and quotes them
        raise Refused(Reason.UNREADABLE, "an object that cannot be written") from None
    return buffer.getvalue()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connected(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged; it is worth nothing but time: what lies there is fetched again
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its other files the same permissions
    db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        # No fsync a commit: what a power cut loses is fetched again, and is noticed (WAL stays consistent).
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _cannot(folder: Path, error: Exception) -> DataError:
    why = error.strerror if isinstance(error, OSError) else error
    return DataError(
        f"the spool cannot be opened or written ({why})",
        where=str(folder),
        advice="Check free space and permissions of the site's state folder",
    )


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
