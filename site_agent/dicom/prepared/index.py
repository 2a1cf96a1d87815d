"""What was found of each study of a data set, so that a study which is done is neither fetched nor built again.

SQLite, because a kill between two writes must leave a readable file. Pseudonyms, reasons and numbers only. It is worth
nothing but time: damaged, it is replaced, and the studies are looked at anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.vault import Damaged, Vault

NAMES = "names"
"""The vault's purpose for names of objects."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS study (
    study TEXT PRIMARY KEY, patient TEXT NOT NULL, print TEXT NOT NULL, reason TEXT, text TEXT NOT NULL,
    digest TEXT NOT NULL, unverified INTEGER NOT NULL, series TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS refused (
    study TEXT NOT NULL, name BLOB NOT NULL, reason TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS content (
    study TEXT PRIMARY KEY, patient TEXT NOT NULL, print TEXT NOT NULL, images TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS named (study TEXT PRIMARY KEY, print TEXT NOT NULL, names TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS marked (study TEXT PRIMARY KEY, marks TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class StudyVerdict:
    """What became of one study.

    Attributes:
        patient: pseudonym. print: keyed digest of what the source announced of it and of the rules it was judged by; ""
            where the verdict does not stand, and the study is tried again.
        reason: None: it is a case. text: for the operator's eyes; numbers, no names.
        digest: of the case's content; "" where it is none.
        unverified: series used of which nothing but their slices says that none is missing at the ends.
        series: series that were left out, by reason.
        images: as in `StudyContent`, which keeps them; () where nothing asked for them.
    """

    patient: str
    print: str
    reason: Reason | None = None
    text: str = ""
    digest: str = ""
    unverified: int = 0
    series: Mapping[Reason, int] = field(default_factory=Counter)
    images: tuple[str, ...] = ()

    @classmethod
    def of_withdrawn(cls, patient: str) -> StudyVerdict:
        """Of a study whose patient the list names: it stands as long as the list does."""
        return cls(patient, "", Reason.WITHDRAWN, "consent was withdrawn")


@dataclass(frozen=True, slots=True)
class StudyContent:
    """Keyed digests of a study's images (`copies`). patient, print: as in `StudyVerdict`."""

    patient: str
    print: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudyNames:
    """Pseudonyms of every Patient ID that a study's objects name, and keyed digests of their marks
    (`messages.ground.written.likeness`). print: as in `StudyVerdict`; "" while they come."""

    print: str
    names: frozenset[str]
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ObjectLeftOut:
    """One object that is not used, and why.

    Attributes:
        study: pseudonym; "" where it is not known.
        name: the object's file, or its UID as the source has it. May name a patient: on disk it is sealed.
    """

    study: str
    name: str = field(repr=False)
    reason: Reason
    text: str


class Index:
    """The verdicts of one data set, by the study's pseudonym. Used by one process at a time (`store.Store.lock`), and
    by one thread at a time: objects may come on a library's.

    Args:
        vault: seals and opens names; without it none are kept or read.

    Raises:
        DataError: the file cannot be opened or written.
    """

    def __init__(self, path: Path, vault: Vault | None = None) -> None:
        self._path, self._vault = path, vault
        try:
            self._db = self._open_file()
        except (OSError, sqlite3.OperationalError) as error:
            raise self._index_error(error) from None

    def _open_file(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(_SCHEMA)
        except sqlite3.OperationalError:
            db.close()
            raise
        except sqlite3.DatabaseError:  # not a database: damaged
            db.close()
            self._path.unlink()
            db = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
            db.executescript(_SCHEMA)
        return db

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get_verdict(self, study: str) -> StudyVerdict | None:
        """What became of a study; None where nothing is known."""
        row = self._db.execute(
            "SELECT patient, print, reason, text, digest, unverified, series FROM study WHERE study = ?", (study,)
        ).fetchone()
        return None if row is None else _verdict_of(row)

    def all_verdicts(self) -> dict[str, StudyVerdict]:
        """Every verdict, by study."""
        rows = self._db.execute(
            "SELECT study, patient, print, reason, text, digest, unverified, series FROM study ORDER BY study"
        ).fetchall()
        return {row[0]: _verdict_of(row[1:]) for row in rows}

    def put_verdict(self, study: str, verdict: StudyVerdict) -> None:
        """Remember a verdict; durable when this returns."""
        reason = None if verdict.reason is None else verdict.reason.value
        series = json.dumps({key.value: count for key, count in sorted(verdict.series.items())})
        row = (study, verdict.patient, verdict.print, reason, verdict.text, verdict.digest, verdict.unverified, series)
        self._write_rows("INSERT OR REPLACE INTO study VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [row])

    def put_content(self, study: str, patient: str, print_: str, images: tuple[str, ...]) -> None:
        """Remember what images a study has."""
        row = (study, patient, print_, json.dumps(images))
        self._write_rows("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?)", [row])

    def all_contents(self) -> dict[str, StudyContent]:
        """What is known of the studies' images, by study."""
        rows = self._db.execute("SELECT study, patient, print, images FROM content").fetchall()
        return {study: StudyContent(patient, print_, tuple(json.loads(text))) for study, patient, print_, text in rows}

    def forget_contents(self, studies: Iterable[str]) -> None:
        """Forget what images some studies have."""
        self._write_rows("DELETE FROM content WHERE study = ?", [(study,) for study in studies])

    def put_names(self, study: str, names: StudyNames) -> None:
        """Remember whom a study's objects name; durable when this returns."""
        row = (study, names.print, json.dumps(sorted(names.names)))
        self._write_rows("INSERT OR REPLACE INTO marked VALUES (?, ?)", [(study, json.dumps(sorted(names.marks)))])
        self._write_rows("INSERT OR REPLACE INTO named VALUES (?, ?, ?)", [row])

    def all_names(self) -> dict[str, StudyNames]:
        """Whom the objects of each study name, by study; a study that an earlier release fetched is not in it."""
        rows = self._db.execute("SELECT study, print, names, marks FROM named JOIN marked USING (study)").fetchall()
        return {
            study: StudyNames(print_, frozenset(json.loads(names)), frozenset(json.loads(marks)))
            for study, print_, names, marks in rows
        }

    def forget_names(self, studies: Iterable[str]) -> None:
        """Forget whom the objects of some studies name."""
        gone: list[tuple[object, ...]] = [(study,) for study in studies]
        self._write_rows("DELETE FROM named WHERE study = ?", gone)
        self._write_rows("DELETE FROM marked WHERE study = ?", gone)

    def forget_studies(self, studies: Iterable[str]) -> None:
        """Forget what is known of some studies."""
        gone: list[tuple[object, ...]] = [(study,) for study in studies]
        self._write_rows("DELETE FROM study WHERE study = ?", gone)
        self._write_rows("DELETE FROM refused WHERE study = ?", gone)

    def put_refused(self, study: str, refused: Iterable[ObjectLeftOut]) -> None:
        """Remember the objects of a study that are left out, in place of those that were known before."""
        self._write_rows("DELETE FROM refused WHERE study = ?", [(study,)])
        if self._vault is None:
            return
        rows = [
            (one.study, self._vault.seal(one.name.encode("utf-8", "surrogateescape")), one.reason.value, one.text)
            for one in refused
        ]
        self._write_rows("INSERT INTO refused VALUES (?, ?, ?, ?)", [*rows])

    def all_refused(self) -> list[ObjectLeftOut]:
        """Every object that is left out, by study and name; none where names cannot be read."""
        vault = self._vault
        if vault is None:
            return []
        found = []
        for study, sealed, reason, text in self._db.execute("SELECT study, name, reason, text FROM refused"):
            try:
                name = vault.open(sealed).decode("utf-8", "surrogateescape")
            except Damaged:  # the secret is another one since
                name = ""
            found.append(ObjectLeftOut(study, name, Reason(reason), text))
        return sorted(found, key=lambda one: (one.study, one.name))

    def note_value(self, key: str, value: str) -> None:
        """Remember a value of the whole data set."""
        self._write_rows("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)])

    def noted_value(self, key: str) -> str:
        """A value of the whole data set; "" where there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    def _write_rows(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._index_error(error) from None

    def _index_error(self, error: Exception) -> DataError:
        return DataError(
            f"the data set's index cannot be opened or written ({error})",
            where=str(self._path),
            advice="Check free space and permissions of the site's state folder",
        )


def _verdict_of(row: tuple[str, str, str | None, str, str, int, str]) -> StudyVerdict:
    patient, print_, reason, text, digest, unverified, series = row
    counts = Counter({Reason(key): int(count) for key, count in json.loads(series).items()})
    return StudyVerdict(patient, print_, Reason(reason) if reason else None, text, digest, unverified, counts)
