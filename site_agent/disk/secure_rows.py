"""What a site's spool keeps of secure rounds: sealed secrets, and the record of what it did once and never does again.

A row a round, in the spool's own database and so in its transactions. What is deleted is overwritten
(`PRAGMA secure_delete`), and the log of changes is cut then: it would hold the secrets still.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from site_agent.core.secure.decisions import SecretsKept

SCHEMA = """
CREATE TABLE IF NOT EXISTS secure (
    experiment TEXT NOT NULL, round INTEGER NOT NULL, sealed BLOB NOT NULL, record BLOB NOT NULL,
    PRIMARY KEY (experiment, round)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class SecureRow:
    """Of one round."""

    experiment: str
    round: int
    kept: SecretsKept


class SecureRows:
    """The table. Any thread.

    Args:
        transaction: the spool's own.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        guard: threading.RLock,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._db, self._guard, self._transaction = db, guard, transaction
        self._stale = False
        """Whether the log of changes may hold what was deleted."""

    def read_row(self, experiment: str, round_number: int) -> SecretsKept | None:
        """What is kept of a round."""
        with self._guard:
            found = self._db.execute(
                "SELECT sealed, record FROM secure WHERE experiment = ? AND round = ?", (experiment, round_number)
            ).fetchone()
        return None if found is None else SecretsKept(*found)

    def list_rows(self) -> list[SecureRow]:
        """Of every round of which something is kept."""
        with self._guard:
            found = self._db.execute("SELECT experiment, round, sealed, record FROM secure").fetchall()
        return [
            SecureRow(experiment, number, SecretsKept(sealed, record)) for experiment, number, sealed, record in found
        ]

    def keep_row(self, experiment: str, round_number: int, kept: SecretsKept) -> None:
        """Keep a round's row in the place of the one before; WorkFailed on a full disk."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO secure VALUES (?, ?, ?, ?)",
                (experiment, round_number, kept.sealed, kept.record),
            )

    def note_record(self, experiment: str, round_number: int, before: bytes, record: bytes) -> bool:
        """Keep what is done next; False where the round is over and its row gone, or something else was done since what
        was done `before` was read. WorkFailed on a full disk."""
        with self._transaction():
            done = self._db.execute(
                "UPDATE secure SET record = ? WHERE experiment = ? AND round = ? AND record IN (?, ?)",
                (record, experiment, round_number, before, record),
            )
            return done.rowcount > 0

    def drop_rows(self, experiment: str, up_to: int | None) -> None:
        """Delete what is kept of an experiment up to a round; None: all of it. WorkFailed on a full disk."""
        with self._transaction():
            done = self._db.execute(
                "DELETE FROM secure WHERE experiment = ? AND round <= ?",
                (experiment, 2**62 if up_to is None else up_to),
            )
            self._stale = self._stale or done.rowcount > 0

    def clear_traces(self) -> None:
        """Cut the log of changes where it may hold what was deleted; outside a transaction. One that is read just now
        is cut with the next call."""
        with self._guard:
            if self._stale and not self._db.in_transaction:
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                self._stale = bool(busy)
