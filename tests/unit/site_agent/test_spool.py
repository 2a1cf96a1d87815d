"""The spool: what is committed survives a kill, and what belongs together is one transaction."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from messages.bus.base import Position
from messages.envelope import Author
from messages.ground.errors import RequestError, WorkFailed
from messages.kinds import Leaving
from site_agent.core.jobs import Agenda, Job, Phase
from site_agent.disk.spool import Spool

KILLED_IN_A_TRANSACTION = """
import os, signal, sys
from pathlib import Path
from messages.bus.base import Position
from site_agent.disk.spool import Spool
spool = Spool(Path(sys.argv[1]))
with spool.transaction():
    spool.set_position("downlink", Position(7, b"d" * 32))
    spool.note_seen("a" * 32, 1.0)
with spool.transaction():
    spool.set_position("downlink", Position(8, b"e" * 32))
    spool.note_seen("b" * 32, 2.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_a_transaction_leaves_all_of_the_one_before_and_nothing_of_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    spool = Spool(tmp_path)
    assert spool.position_of("downlink") == Position(7, b"d" * 32)
    assert spool.note_seen("a" * 32, 3.0) is False
    assert spool.note_seen("b" * 32, 3.0) is True
    spool.close()


def test_an_error_in_a_transaction_takes_everything_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    def fail() -> None:
        with spool.transaction():
            spool.note_term(9, None)
            with spool.transaction():
                spool.next_seq()
            raise WorkFailed("no")

    with pytest.raises(WorkFailed):
        fail()
    assert spool.term == 0
    assert spool.next_seq() == 1
    spool.close()


def test_sequence_numbers_have_no_gap_and_begin_anew_with_each_start(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    assert [first.next_seq() for _ in range(3)] == [1, 2, 3]
    first.close()
    second = Spool(tmp_path)
    assert second.incarnation == first.incarnation + 1
    assert second.next_seq() == 1
    second.close()


def test_an_event_waits_until_its_receipt_and_is_then_in_the_ledger(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    event = Author("c", "site-a").write_event("leaving", Leaving(), time=1.0, seq=1)
    spool.post_event(event)
    spool.post_event(event)
    assert [one.raw for one in spool.list_waiting()] == [event.raw]
    spool.close()
    spool = Spool(tmp_path)
    receipted = spool.take_receipted(event.id, 2.0)
    assert receipted is not None
    assert receipted.kind == "leaving"
    assert spool.take_receipted(event.id, 3.0) is None
    assert (spool.list_waiting(), spool.count_rows()["ledger"]) == ([], 1)
    spool.prune_old(now=100.0, ledger_kept=50.0)
    assert spool.count_rows()["ledger"] == 0
    spool.close()


def test_the_agenda_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    job = Job(experiment="e", digest="d", file={"a": [1]}, researcher="dr-a", phase=Phase.IDLE, round=4, start=b"x")
    before = Agenda("site-a")
    after = Agenda("site-a", {"e": job}, paused=True)
    spool.store_agenda(before, after, 1.0)
    spool.close()
    spool = Spool(tmp_path)
    assert spool.load_agenda("site-a") == after
    spool.close()


def test_a_second_agent_on_the_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(RequestError, match="another agent works on this state directory") as refused:
        Spool(tmp_path)
    assert refused.value.exit_status == 2
    spool.close()
    Spool(tmp_path).close()


def test_files_are_freed_by_round_and_other_experiments_keep_theirs(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = ["e.1.coordinator.1.model", "e.2.coordinator.1.model", "e-2.1.coordinator.1.model"]
    for name in names:
        (spool.globals / name).touch()
    spool.free_files("e", 1)
    assert sorted(path.name for path in spool.globals.iterdir()) == sorted(names[1:])
    spool.free_files("e", None)
    assert [path.name for path in spool.globals.iterdir()] == names[2:]
    spool.close()


def test_what_a_killed_agent_left_of_an_ended_experiment_goes_and_what_others_need_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = ["e.1.coordinator.1.model", "e.2.coordinator.1.part", "e-2.1.coordinator.1.model"]
    for folder in (spool.globals, spool.updates):
        for name in names:
            (folder / name).touch()
    spool.free_left_over({"e", "other"})
    assert [path.name for folder in (spool.globals, spool.updates) for path in folder.iterdir()] == [names[2]] * 2
    spool.close()


def test_room_is_what_the_operators_limit_leaves(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    before = spool.room_left(2**30)
    (spool.globals / "big").write_bytes(b"x" * 2**20)
    assert before - spool.room_left(2**30) >= 2**20
    assert spool.room_left(0) < 0
    spool.close()


def test_the_sites_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert len(spool.site_secret()) == 32
    assert spool.site_secret() == spool.site_secret()
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    spool.close()


def test_a_damaged_spool_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(WorkFailed, match=r"spool\.sqlite"):
        Spool(tmp_path)
