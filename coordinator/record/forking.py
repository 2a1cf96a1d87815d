"""What the operator declares where the journal was restored: from which head the log goes on, under which term."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from coordinator.record.heads import FORK
from coordinator.record.journal import lock_folder
from coordinator.record.journal_file import damaged_error, open_reader, verify_entries
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.log.forks import DeclaredFork, sign_fork
from messages.log.heads import origin_of
from messages.log.tree import Tree, hash_leaf
from messages.trust.keys import SigningKey


def declare_fork(state: Path, consortium: str, operator: SigningKey) -> DeclaredFork:
    """Sign that the log goes on from this journal as it is, and keep that beside it.

    Raises:
        RequestError: there is no journal, or the note cannot be written.
        NameTaken: a coordinator uses it.
        LogBroken: the journal does not hold.
    """
    place = state / "journal.sqlite"
    if not place.is_file():
        raise RequestError("there is no journal", where=str(state))
    handle = lock_folder(state)
    try:
        tree = Tree()
        try:
            with contextlib.closing(open_reader(place)) as db:
                for entry in verify_entries(db, place):
                    tree.append_leaf(hash_leaf(entry.encode()))
                row = db.execute("SELECT value FROM meta WHERE key = 'term'").fetchone()
        except sqlite3.DatabaseError as error:
            raise damaged_error(place, error) from None
        fork = DeclaredFork(origin_of(consortium), int(row[0] if row else 0) + 1, tree.size, tree.root())
        try:
            replace_file(state / FORK, sign_fork(fork, operator), mode=0o600)
        except OSError as error:
            raise RequestError(f"cannot be written ({error.strerror})", where=str(state / FORK)) from None
    finally:
        os.close(handle)
    return fork
