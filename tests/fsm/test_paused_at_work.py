"""A researcher pauses and resumes while the coordinator's pool is at work: the work is done once, and the bits stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coordinator_rig
import pytest
from brokers import PATIENCE
from coordinator_kit import build, plain
from coordinator_rig import Consortium, body_of, calm_digest

from coordinator.work import pool
from messages import kinds

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


class Held:
    """A piece of the pool's work that waits until it may go on; counts how often it is begun."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self._original = original
        self._lock = threading.Lock()
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.times = 0

    def __call__(self, *given: Any, **more: Any) -> Any:
        with self._lock:
            self.times += 1
        self.begun.set()
        assert self.may_go_on.wait(PATIENCE)
        return self._original(*given, **more)


def hold_initial_model(patch: pytest.MonkeyPatch) -> Held:
    held = Held(build)
    patch.setattr(coordinator_rig, "build", held)
    return held


def hold_average(patch: pytest.MonkeyPatch) -> Held:
    held = Held(pool.average)
    patch.setattr(pool, "average", held)
    return held


def hold_verification(patch: pytest.MonkeyPatch) -> Held:
    held = Held(pool.measure_update)
    patch.setattr(pool, "measure_update", held)
    return held


@pytest.mark.parametrize(
    ("hold", "times"),
    [(hold_initial_model, 1), (hold_average, 2), (hold_verification, 6)],
    ids=["initial model", "average", "verification"],
)
def test_work_that_runs_while_its_experiment_is_paused_and_resumed_is_not_done_a_second_time_beside_itself(
    hold: Callable[[pytest.MonkeyPatch], Held],
    times: int,
    consortium: Consortium,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calm = calm_digest(tmp_path / "calm", START)
    held = hold(monkeypatch)
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", START)
    assert held.begun.wait(PATIENCE)
    for again in range(1, 4):
        consortium.say("experiment-pause", kinds.ExperimentPause(), 2 * again)
        consortium.until("experiment-paused", again)
        consortium.say("experiment-resume", kinds.ExperimentResume(), 2 * again + 1)
        consortium.until("experiment-resumed", again)
    held.may_go_on.set()
    assert body_of(consortium.until("experiment-complete")).final_digest == calm
    assert held.times == times
