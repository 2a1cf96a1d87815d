"""What the phases add up: calls, seconds, bytes, from any thread, and whatever the block does."""

from __future__ import annotations

import threading
import time

import pytest

from messages.ground.metrics import NAMES, Phases, Spent


def test_each_stretch_is_counted_with_its_seconds_and_bytes() -> None:
    phases = Phases()
    phases.add_stretch("hash", 0.5, cpu=0.25, bytes=100)
    phases.add_stretch("hash", 0.25, bytes=28)
    shot = phases.take_snapshot()
    assert shot["hash"] == Spent(2, 0.75, 0.25, 128)
    assert shot["publish"] == Spent()
    assert tuple(shot) == NAMES


def test_a_block_that_works_has_cpu_seconds_and_one_that_waits_has_wall_seconds_only() -> None:
    phases = Phases()
    with phases.time_phase("aggregate"):
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
    with phases.time_phase("publish", bytes=7):
        threading.Event().wait(0.2)
    shot = phases.take_snapshot()
    assert shot["aggregate"].cpu_seconds >= 0.05
    assert shot["publish"].seconds >= 0.19
    assert shot["publish"].cpu_seconds < shot["publish"].seconds / 2
    assert shot["publish"].bytes == 7


def test_a_block_that_raises_is_counted_and_its_error_comes_out() -> None:
    phases = Phases()

    def fill() -> None:
        with phases.time_phase("spool") as timing:
            timing.bytes = 3
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert (phases.take_snapshot()["spool"].count, phases.take_snapshot()["spool"].bytes) == (1, 3)


def test_no_stretch_is_lost_between_threads() -> None:
    phases = Phases()
    before = phases.take_snapshot()

    def work() -> None:
        for _ in range(5000):
            phases.add_stretch("receive", 1.0, bytes=2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert phases.spent_since(before)["receive"] == Spent(20_000, 20_000.0, 0.0, 40_000)


def test_a_phase_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(KeyError):
        Phases().add_stretch("lunch", 1.0)
