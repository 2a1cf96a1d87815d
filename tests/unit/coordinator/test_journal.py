"""The journal: one writer, a chain that holds, and nothing lost between two entries."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.record.journal import ASIDE, TERM, AuditPosition, Journal, Written, open_readonly
from messages import codec
from messages.bus.base import Position
from messages.ground.errors import LogBroken, NameTaken, RequestError


def filled(folder: Path, count: int = 4) -> None:
    journal = Journal(folder)
    for n in range(count):
        written = Written({f"id-{n}": n % 2 == 0}, {"uplink": Position(n, bytes(32))})
        journal.append_entry(f"exp-{n % 2}", ASIDE, {"n": n}, time=float(n), written=written)
    journal.close()


def test_what_was_committed_together_is_there_after_opening_again(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = Journal(tmp_path)
    assert journal.number == 4
    assert journal.position_of("uplink") == Position(3, bytes(32))
    assert [journal.seen_settled(f"id-{n}") for n in range(5)] == [True, False, True, False, None]
    journal.append_entry("exp-0", ASIDE, {}, time=9.0)
    journal.close()
    assert [entry.index for entry in open_readonly(tmp_path)] == [1, 1, 2, 2, 3]


def test_a_term_is_used_with_its_entry_and_one_that_does_not_follow_names_the_one_before(tmp_path: Path) -> None:
    for term, before in ((1, None), (1, None), (2, None), (9, 2)):
        journal = Journal(tmp_path)
        if term == 9:
            journal.put_value("term", b"8")
            journal.close()
            journal = Journal(tmp_path)
        assert journal.term == term
        if (term, journal.number) != (1, 0):
            assert journal.begin_term({"logic": 0}, time=1.0) == before
        else:
            journal.append_entry("exp-0", ASIDE, {}, time=0.0)  # a start that says nothing
        journal.close()
    bodies = [codec.unpack(entry.body) for entry in open_readonly(tmp_path) if entry.type == TERM]
    assert bodies == [{"term": 1, "logic": 0}, {"term": 2, "logic": 0}, {"term": 9, "after": 2, "logic": 0}]


def test_what_is_settled_stays_settled(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.note_written(Written({"a": True}, {}))
    journal.note_written(Written({"a": False}, {}))
    assert journal.seen_settled("a") is True
    journal.close()


def test_a_second_coordinator_is_refused_with_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(NameTaken, match="another coordinator uses this journal"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_entry_that_is_gone_is_found_at_open(tmp_path: Path, number: int) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("DELETE FROM entries WHERE number = ?", (number,))
    db.close()
    with pytest.raises(LogBroken):
        Journal(tmp_path)
    with pytest.raises(LogBroken):
        list(open_readonly(tmp_path))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(LogBroken, match="damaged"):
        Journal(tmp_path)


def test_no_journal_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no journal"):
        list(open_readonly(tmp_path))


def test_the_audit_position_outlives_its_reader(tmp_path: Path) -> None:
    filled(tmp_path)
    position = AuditPosition(tmp_path / "journal.sqlite")
    assert position.read_number() == 0
    position.write_number(3)
    position.close()
    again = AuditPosition(tmp_path / "journal.sqlite")
    assert [entry.number for entry in again.entries(again.read_number())] == [4]
    again.close()


def test_the_test_hook_kills_right_after_the_commit(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from coordinator.record.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), crash_after=2)\n"
        "for n in range(5): journal.append_entry('exp', 'set-aside', {}, time=1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert [entry.number for entry in open_readonly(tmp_path)] == [1, 2]
