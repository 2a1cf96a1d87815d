"""Verdicts of earlier surveys, so that a second survey of a thousand unchanged cases takes seconds.

SQLite, because a kill between two writes must leave a readable file: each verdict is one row in a transaction.
A verdict holds for the files' paths, sizes and times of change, and for the rules (mapping, channels) it was
made under; anything else is looked at anew. The cache is worth nothing but time: if it is damaged it is replaced.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.twins import Content

_BATCH_SECONDS = 1.0


@dataclass(frozen=True)
class CaseVerdict:
    """`reason` None: usable. `content`: what the case holds, where it is usable."""

    reason: Reason | None
    text: str
    content: Content | None = None


class VerdictCache:
    """A context manager; with path None it remembers nothing."""

    def __init__(self, path: Path | None, rules: str) -> None:
        self._path = path
        self._rules = rules
        self._db: sqlite3.Connection | None = None
        self._committed = time.monotonic()

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._db = self._open_file(self._path)
            except (OSError, sqlite3.OperationalError) as error:
                raise DataError(
                    f"the survey's cache cannot be opened ({error})",
                    where=str(self._path),
                    advice="Check free space and permissions of the site's state folder",
                ) from None
        return self

    @staticmethod
    def _open_file(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=10)
        try:
            _make_table(db)
        except sqlite3.OperationalError:
            db.close()
            raise
        except sqlite3.DatabaseError:  # not a database: damaged
            db.close()
            path.unlink()
            db = sqlite3.connect(path, timeout=10)
            _make_table(db)
        return db

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._db is not None:
            self._db.commit()
            self._db.close()
            self._db = None

    def _print_files(self, files: Sequence[Path]) -> bytes:
        digest = sha256(self._rules.encode())
        for file in files:
            status = file.stat()
            digest.update(f"\n{file}|{status.st_size}|{status.st_mtime_ns}".encode())
        return digest.digest()

    def get_verdict(self, key: str, files: Sequence[Path]) -> CaseVerdict | None:
        """The verdict on a case, None where there is none or a file changed."""
        if self._db is None:
            return None
        try:
            row = self._db.execute("SELECT print, reason, text, content FROM verdict WHERE key = ?", (key,)).fetchone()
            if row is None or row[0] != self._print_files(files):
                return None
        except OSError:  # a file that cannot be looked at: the survey finds out why
            return None
        content = Content.from_text(row[3]) if row[3] else None
        return CaseVerdict(Reason(row[1]) if row[1] else None, row[2], content)

    def put_verdict(
        self, key: str, files: Sequence[Path], reason: Reason | None, text: str, content: Content | None = None
    ) -> None:
        """Remember a verdict. Unreadable files are looked at anew each time: a mount may come back."""
        if self._db is None or reason is Reason.UNREADABLE:
            return
        self._db.execute(
            "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?)",
            (key, self._print_files(files), reason.value if reason else None, text, content and content.to_text()),
        )
        if time.monotonic() - self._committed > _BATCH_SECONDS:
            self._db.commit()
            self._committed = time.monotonic()


def _make_table(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS verdict (key TEXT PRIMARY KEY, print BLOB, reason TEXT, text TEXT, content TEXT)"
    )
    if "content" not in [row[1] for row in db.execute("PRAGMA table_info(verdict)")]:  # made by 0.1
        db.execute("ALTER TABLE verdict ADD COLUMN content TEXT")
