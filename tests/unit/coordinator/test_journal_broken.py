"""A broken journal is noticed at start: the message says what holds, which experiments are whole, and what to do."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.record.diagnosis import examine_file
from coordinator.record.journal import ASIDE, Journal, open_readonly
from messages.ground.errors import KonsilError, LogBroken, RequestError

PLAN = ("exp-a", "exp-a", "exp-b", "exp-a", "exp-c", "exp-b", "exp-c")
"""Which experiment each entry belongs to."""


def filled(folder: Path) -> None:
    journal = Journal(folder)
    for n, name in enumerate(PLAN):
        journal.append_entry(name, ASIDE, {"n": n, "text": f"entry-{n + 1}-" + "x" * 500}, time=float(n))
    journal.close()


def flip(folder: Path, number: int) -> None:
    """Change one byte of an entry's body, in place."""
    with sqlite3.connect(folder / "journal.sqlite") as db:
        data = bytearray(db.execute("SELECT data FROM entries WHERE number = ?", (number,)).fetchone()[0])
        place = data.index(b"xxxx")
        data[place] ^= 1
        db.execute("UPDATE entries SET data = ? WHERE number = ?", (bytes(data), number))
    db.close()


def refused(folder: Path) -> str:
    with pytest.raises(KonsilError) as caught:
        Journal(folder)
    Path(folder / "journal.lock").read_bytes()  # and the lock is free again: the second try says the same
    with pytest.raises(type(caught.value)) as again:
        Journal(folder)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def test_a_changed_byte_is_found_at_start_and_the_message_says_what_holds_and_what_to_do(tmp_path: Path) -> None:
    filled(tmp_path)
    flip(tmp_path, 3)
    said = refused(tmp_path)
    assert "entry 1 of exp-b (journal number 3)" in said
    assert "Entries 1 to 2 of 7 hold; whole: exp-a, exp-c; damaged: exp-b" in said
    assert "konsil coordinator restore" in said
    assert "konsil coordinator cut --after 2" in said
    assert "forgets what came later of exp-a, exp-b, exp-c" in said


@pytest.mark.parametrize("number", range(1, len(PLAN) + 1))
def test_whatever_entry_is_changed_those_before_it_hold(tmp_path: Path, number: int) -> None:
    filled(tmp_path)
    flip(tmp_path, number)
    found = examine_file(tmp_path / "journal.sqlite")
    assert (found.holds, found.written) == (number - 1, len(PLAN))
    assert found.damaged == (PLAN[number - 1],)
    assert f"journal number {number}" in refused(tmp_path)


def test_a_file_that_was_cut_is_found_at_start(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "journal.sqlite"
    os.truncate(path, path.stat().st_size // 2)
    said = refused(tmp_path)
    assert "konsil coordinator restore" in said
    assert "of 7 hold" in said or "No entry holds" in said


def test_a_write_ahead_log_that_was_lost_is_found_at_start(tmp_path: Path) -> None:
    """SQLite itself cannot tell: the database without its log is a good one, of some time ago."""
    program = (
        "import sys, os, signal; from pathlib import Path; from coordinator.record.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.append_entry('exp-a', 'set-aside', {}, time=1.0)\n"
        "journal._db.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n"
        "for n in range(3): journal.append_entry('exp-a', 'set-aside', {}, time=1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    shutil.copytree(tmp_path, tmp_path / "copy")
    (tmp_path / "journal.sqlite-wal").unlink()
    said = refused(tmp_path)
    assert "lost its end: entry 4 was written, and it ends with 1" in said
    assert "Entries 1 to 1 of 4 hold" in said
    with pytest.raises(LogBroken):
        list(open_readonly(tmp_path))
    Journal(tmp_path / "copy").close()  # with its log it is whole


def test_a_journal_of_a_newer_konsil_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
        db.execute("ALTER TABLE entries ADD COLUMN more TEXT")
    db.close()
    with pytest.raises(RequestError, match="a newer Konsil wrote this journal") as caught:
        Journal(tmp_path)
    assert caught.value.exit_status == 2
    with pytest.raises(RequestError, match="newer Konsil"):
        list(open_readonly(tmp_path))


def test_a_journal_that_is_being_written_is_never_called_broken_by_a_reader(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for n in range(50):
        journal.append_entry("exp-a", ASIDE, {"n": n}, time=float(n))
        reading = open_readonly(tmp_path)
        first = next(reading)
        journal.append_entry("exp-a", ASIDE, {}, time=float(n))
        assert [first, *reading][-1].number == 2 * n + 1
    journal.close()


@pytest.mark.parametrize("value", [5, "text", 1.5, b""], ids=repr)
@pytest.mark.parametrize(
    ("table", "where"), [("entries SET data", "number = 3"), ("meta SET value", "key = 'head'")], ids=["entry", "head"]
)
def test_a_value_that_an_editor_of_databases_left_there_is_a_broken_journal_and_no_defect(
    table: str, where: str, value: object, tmp_path: Path
) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute(f"UPDATE {table} = ? WHERE {where}", (value,))
    db.close()
    assert "konsil coordinator" in refused(tmp_path)
    with pytest.raises(LogBroken):
        list(open_readonly(tmp_path))
