"""The trainers' logs stay within bounds while the trainers go on writing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from brokers import eventually

from messages.ground.clock import SystemClock
from site_agent.trainers import log_file
from site_agent.trainers.processes import TrainerProcesses
from site_agent.training.protocol import Prepare


def test_the_end_of_a_log_that_grew_too_large_is_kept_beside_it(tmp_path: Path) -> None:
    log = log_file.log_of(tmp_path, "exp-1")
    log.write_bytes(b"old" * 100 + b"the end")
    log_file.bound_size(log, largest=7)
    assert log.read_bytes() == b""
    assert (tmp_path / "exp-1.trainer.log.1").read_bytes() == b"the end"
    log_file.bound_size(log, largest=7)
    assert (tmp_path / "exp-1.trainer.log.1").read_bytes() == b"the end"


def test_a_log_within_bounds_is_left_alone(tmp_path: Path) -> None:
    log = log_file.log_of(tmp_path, "exp-1")
    log_file.bound_size(log, largest=7)
    log.write_bytes(b"the end")
    log_file.bound_size(log, largest=7)
    assert [path.name for path in tmp_path.iterdir()] == [log.name]
    assert log.read_bytes() == b"the end"


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(tmp_path: Path) -> None:
    log = log_file.log_of(tmp_path, "exp-1")
    log.write_bytes(b"x" * 100)
    (tmp_path / "exp-1.trainer.log.1").mkdir()  # stands in for a full disk: the copy cannot take its place
    log_file.bound_size(log, largest=7)
    assert log.read_bytes() == b""
    assert not list(tmp_path.glob("*.part"))


def test_a_trainer_that_never_stops_talking_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "LARGEST", 2**16)
    talk = "import itertools, time\nfor n in itertools.count(): print(n, 'x' * 1000, flush=True); time.sleep(0.001)"
    trainers = TrainerProcesses(
        on_reply=lambda *_: None,
        on_exit=lambda *_: None,
        clock=SystemClock(),
        logs=tmp_path,
        program=[sys.executable, "-c", talk],
        nice=0,
        stuck_after=3600,
        most=2,
    )
    log = log_file.log_of(tmp_path, "exp-1")
    before = tmp_path / "exp-1.trainer.log.1"

    def last_number() -> int:
        trainers.bound_logs()
        return int(before.read_text().splitlines()[-2].split()[0]) if before.exists() else 0

    try:
        trainers.ask(
            "exp-1", Prepare(experiment={}, dataset={}, site="site-a", secret=b"s", threads=1, cache="none"), None
        )
        first = eventually(last_number, what="a log set aside")
        assert eventually(lambda: last_number() > first, what="the process to go on after its log was emptied")
        assert before.stat().st_size == 2**16
        eventually(lambda: last_number() and log.stat().st_size <= 2**16, what="a log within bounds")
    finally:
        trainers.close()
    trainers.forget("exp-1")
    assert not log.exists()
    assert not before.exists()
