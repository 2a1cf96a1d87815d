"""The real coordinator and the real agents run a whole experiment of hours under one virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain
from virtual_consortium import VirtualConsortium

from coordinator.core import rules
from coordinator.loop.shell import SPARED
from messages import kinds
from messages.ground.clock import SystemClock
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason

SITES = ("site-a", "site-b")
HOUR = 900.0
"""Seconds. A quarter shows the same, and costs a quarter: the services look at what is due once a second."""
ROUNDS = {
    "count": 3,
    "enrol_within": 1 * HOUR,
    "train_within": 2 * HOUR,
    "grace": 1 * HOUR,
    "at_deadline": "extend",
    "extensions": 1,
}


def takes(site: str, number: int) -> float:
    """Round 1: both at once. Round 2: site-b is not back within the grace period. Round 3: nobody is back by the
    deadline, site-a within its extension, site-b never."""
    slow = {("site-b", 2): 20 * HOUR, ("site-a", 3): 2.5 * HOUR, ("site-b", 3): 50 * HOUR}
    return slow.get((site, number), 0.5 * HOUR)


def run(folder: Path) -> tuple[str, list[kinds.RoundComplete], kinds.ExperimentComplete, float]:
    """Trace, rounds, end, and the hours that it took."""
    clock = VirtualClock()

    def body() -> tuple[list[kinds.RoundComplete], kinds.ExperimentComplete, float]:
        consortium = VirtualConsortium(folder, clock, takes, SITES)
        began = clock.monotonic()
        experiment = plain(sites=[*SITES], rounds=ROUNDS, quorum={"least_sites": 1})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
        complete = consortium.until("experiment-complete", 48 * HOUR).body
        hours = (clock.monotonic() - began) / HOUR
        consortium.close()
        rounds = [one.body for _at, one in consortium.of("round-complete")]
        assert isinstance(complete, kinds.ExperimentComplete)
        return [one for one in rounds if isinstance(one, kinds.RoundComplete)], complete, hours

    rounds, complete, hours = clock.run(body)
    return clock.trace, rounds, complete, hours


@pytest.fixture
def machine_time(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the machine's clock was used: by a part that was handed no other."""
    used: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        original = getattr(SystemClock, name)
        return lambda *given: used.append(name) or original(*given)

    for name in [one for one in vars(SystemClock) if not one.startswith("_")]:
        monkeypatch.setattr(SystemClock, name, watched(name))
    return used


def test_an_experiment_of_hours_runs_in_seconds_and_to_the_same_end_twice(
    tmp_path: Path, machine_time: list[str]
) -> None:
    trace, rounds, complete, hours = run(tmp_path / "one")
    assert [set(one.contributors) for one in rounds] == [{"site-a", "site-b"}, {"site-a"}, {"site-a"}]
    assert [one.left_out for one in rounds] == [{}, {"site-b": Reason.ABSENT}, {"site-b": Reason.ABSENT}]
    assert [round(one.seconds / HOUR, 1) for one in rounds] == [0.5, 1.5, 3.5]
    assert hours == pytest.approx(5.5, abs=0.1)
    assert complete.test is not None
    assert machine_time == []
    again = run(tmp_path / "two")
    assert (again[2].final_digest, again[0]) == (complete.final_digest, trace)


def test_a_timer_that_was_set_aside_is_tried_again_after_ten_minutes_and_the_loop_rests_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, close, calls = VirtualClock(), rules.close_recruiting, list[float]()

    def raising_once(*given: Any) -> Any:
        calls.append(clock.monotonic())
        if len(calls) == 1:
            raise KeyError("a defect")
        return close(*given)

    monkeypatch.setattr(rules, "close_recruiting", raising_once)

    def body() -> int:
        consortium = VirtualConsortium(tmp_path, clock, takes, ())
        experiment = plain(sites=[*SITES], rounds=ROUNDS | {"enrol_within": 10.0})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
        clock.sleep(300.0)
        turns = clock.turns
        consortium.until("experiment-failed", HOUR)
        consortium.close()
        return turns

    turns = clock.run(body)
    assert calls[1] - calls[0] == pytest.approx(SPARED, abs=2.0)
    assert turns < 5000
