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
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from messages.ground.durable import replace_file
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.vault import Damaged, Vault
from site_agent.dicom.base import Object, ObjectRefused
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
_CHARACTERS = "ISO_IR 192"
"""Of every clean object."""
_LONG = 2**16
_SOME_UID, _GROUP_LENGTH = "1.2.3.40", 12
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """An object that passed the door, as a file's content; else as `door.Admitted`."""

    study: str
    series: str
    sop: str
    facts: Facts
    content: bytes


def write_object(admitted: Admitted) -> WrittenObject:
    """Raises Refused (UNREADABLE) where an object cannot be written."""
    return WrittenObject(admitted.study, admitted.series, admitted.sop, admitted.facts, encode_object(admitted.object))


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
            self._db = _open_index(folder / "index.sqlite")
        except (OSError, sqlite3.OperationalError) as error:
            raise _index_error(folder, error) from None

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

    def has_object(self, sop_uid: str) -> bool:
        """Whether an object is there, by its SOP Instance UID as the source has it."""
        return self._is_there(self._pseudonyms.pseudonym_of_uid(sop_uid))

    def put_object(self, admitted: Admitted) -> bool:
        """Keep an object; False where one of its UID is there already, which stays.

        Raises:
            OSError: the disk is full. DataError: the index cannot be written.
        """
        return not self._is_there(admitted.sop) and self.keep_written(write_object(admitted))

    def keep_written(self, clean: WrittenObject) -> bool:
        """`put_object` of what is encoded already."""
        if self._is_there(clean.sop):
            return False
        path, content = self._path_of(clean.study, clean.series, clean.sop), clean.content
        if self._seals:
            content = self._vault.seal(content)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content, mode=0o600)
        facts = json.dumps(clean.facts.as_plain(), sort_keys=True)
        row = (clean.sop, clean.study, clean.series, len(content), _digest_of(content), facts)
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)", row)
        return True

    def announce_series(self, study: str, series: str, instances: int | None) -> None:
        """Remember how many instances the source says that a series has; pseudonyms, as `Admitted` has them."""
        if instances is not None:
            with self._writing() as db:
                db.execute("INSERT OR REPLACE INTO announced VALUES (?, ?, ?)", (study, series, instances))

    def announced_counts(self, study: str) -> dict[str, int]:
        """Series → instances that the source says it has, where it did."""
        return dict(self._read_rows("SELECT series, instances FROM announced WHERE study = ?", study))

    def list_studies(self) -> list[str]:
        """Every study of which something is there."""
        return [study for (study,) in self._read_rows("SELECT DISTINCT study FROM object ORDER BY study")]

    def list_series(self, study: str) -> dict[str, list[Path]]:
        """Series → files of its objects that are there, in the order of their UIDs; `read_file` reads one."""
        found: dict[str, list[Path]] = {}
        rows = self._read_rows("SELECT series, sop, bytes FROM object WHERE study = ? ORDER BY series, sop", study)
        for series, sop, size in rows:
            path = self._path_of(study, series, sop)
            if _is_whole(path, size):
                found.setdefault(series, []).append(path)
        return found

    def read_facts(self, study: str) -> dict[str, Facts]:
        """Series → what most of its objects said of it (of equally many, the first in writing).

        Raises:
            DataError: another version of the software wrote them.
        """
        said: dict[str, Counter[str]] = {}
        rows = self._read_rows(
            "SELECT series, facts, COUNT(*) FROM object WHERE study = ? GROUP BY series, facts", study
        )
        for series, facts, count in rows:
            said.setdefault(series, Counter())[facts] = count
        chosen = {series: min(counts, key=lambda facts: (-counts[facts], facts)) for series, counts in said.items()}
        return {series: Facts.from_plain(json.loads(facts)) for series, facts in chosen.items()}

    def read_file(self, path: Path) -> bytes:
        """A file's content, decrypted where it is encrypted.

        Raises:
            Refused: UNREADABLE: it is gone or damaged; it does not count as there any more.
            DataError: the index cannot be read or written.
        """
        rows = self._read_rows("SELECT digest FROM object WHERE sop = ?", path.stem)
        try:
            content = path.read_bytes()
            if not rows or rows[0][0] != _digest_of(content):
                raise Damaged
            return content if content.startswith(_PREAMBLE) else self._vault.open(content)
        except (OSError, Damaged):
            with self._writing() as db:
                db.execute("DELETE FROM object WHERE sop = ?", (path.stem,))
            raise ObjectRefused(Reason.UNREADABLE, "an object in the spool is damaged; it is fetched again") from None

    def load_object(self, path: Path) -> Object:
        """`read_file`, as a pydicom Dataset."""
        import pydicom

        return pydicom.dcmread(BytesIO(self.read_file(path)))

    def drop_study(self, study: str) -> None:
        """Forget a study and remove its files: the entries first, so that none without a file counts."""
        with self._writing() as db:
            db.execute("DELETE FROM object WHERE study = ?", (study,))
            db.execute("DELETE FROM announced WHERE study = ?", (study,))
        shutil.rmtree(self.folder / study, ignore_errors=True)

    def sweep_leftovers(self) -> None:
        """Remove what a kill left: files without an entry, entries without a file. For the one process that writes."""
        known = set()
        gone = []
        for study, series, sop, size in self._read_rows("SELECT study, series, sop, bytes FROM object"):
            path = self._path_of(study, series, sop)
            if _is_whole(path, size):
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

    def _path_of(self, study: str, series: str, sop: str) -> Path:
        return self.folder / study / series / f"{sop}.dcm"

    def _is_there(self, sop: str) -> bool:
        rows = self._read_rows("SELECT study, series, bytes FROM object WHERE sop = ?", sop)
        return any(_is_whole(self._path_of(study, series, sop), size) for study, series, size in rows)

    def _read_rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            with self._guard:
                return self._db.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise _index_error(self.folder, error) from None

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
                raise _index_error(self.folder, error) from None


def encode_object(clean: Object) -> bytes:
    """An object as a DICOM file (PS3.10, 7.1); nothing in preamble and file meta information but what must be."""
    try:
        return _encode_file(clean)
    except Exception:  # noqa: BLE001 - pydicom raises anything for values that do not fit, and quotes them
        raise ObjectRefused(Reason.UNREADABLE, "an object that cannot be written") from None


def _encode_file(clean: Object) -> bytes:
    """As `pydicom.dcmwrite` has it, which looks for more than a clean object can hold, at four times the cost."""
    from pydicom import dcmwrite
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_data_element
    from pydicom.uid import ImplicitVRLittleEndian

    if clean.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian:
        whole = BytesIO()
        dcmwrite(whole, clean, enforce_file_format=True)
        return whole.getvalue()
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    buffer.write(_PREAMBLE + b"DICM" + _encode_meta(clean.file_meta))
    for tag, element in sorted(clean.items(), key=lambda item: int(item[0])):
        if element.is_raw and len(element.value) < _LONG:  # of a VR whose length has two bytes, unless it is a sequence
            head = tag.to_bytes(4, "big")
            buffer.write(head[1::-1] + head[:1:-1] + element.VR.encode())
            size = len(element.value)
            buffer.write(b"\0\0" + size.to_bytes(4, "little") if element.VR == "SQ" else size.to_bytes(2, "little"))
            buffer.write(element.value)
        else:
            write_data_element(buffer, element, _CHARACTERS)
    return bytes(buffer.getvalue())


def _encode_meta(meta: Object) -> bytes:
    """File meta information (PS3.10, 7.1): only the object's own UID differs from object to object."""
    uid = str(meta.MediaStorageSOPInstanceUID)
    before, after = _encode_rest_of_meta(str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    own = uid.encode() + b"\0" * (len(uid) % 2)
    content = before + b"\x02\0\x03\0UI" + len(own).to_bytes(2, "little") + own + after
    return b"\x02\0\0\0UL\x04\0" + len(content).to_bytes(4, "little") + content


@lru_cache(maxsize=64)
def _encode_rest_of_meta(kind: str, syntax: str) -> tuple[bytes, bytes]:
    """What stands before and behind the object's UID, as pydicom writes it."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

    meta, buffer = FileMetaDataset(), DicomBytesIO()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, _SOME_UID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax, PYDICOM_IMPLEMENTATION_UID
    write_file_meta_info(buffer, meta)
    own = b"\x02\0\x03\0UI" + len(_SOME_UID).to_bytes(2, "little") + _SOME_UID.encode()
    before, after = buffer.getvalue()[_GROUP_LENGTH:].split(own)
    return before, after


def _open_index(path: Path) -> sqlite3.Connection:
    try:
        return _connect_index(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged; it is worth nothing but time: what lies there is fetched again
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        return _connect_index(path)


def _connect_index(path: Path) -> sqlite3.Connection:
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


def _index_error(folder: Path, error: Exception) -> DataError:
    why = error.strerror if isinstance(error, OSError) else error
    return DataError(
        f"the spool cannot be opened or written ({why})",
        where=str(folder),
        advice="Check free space and permissions of the site's state folder",
    )


def _digest_of(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def _is_whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
