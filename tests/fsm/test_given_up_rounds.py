"""A round that a site gave up for a passing reason is taken on after all, and a researcher need not wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import open_readonly
from coordinator.record.replay import replay
from messages import kinds
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from site_agent.core.jobs import Phase

SITES = ("site-a", "site-b")
MINUTE, HOUR = 60.0, 3600.0
ROUNDS = {"count": 3, "enrol_within": 1 * HOUR, "train_within": 6 * HOUR, "grace": 1 * HOUR}
ALL = {"least_sites": "all"}
LAST = {"select_by": "last"}

Script = Callable[[VirtualConsortium], None]


def run(folder: Path, script: Script, **changes: Any) -> VirtualConsortium:
    """One experiment, with what happens to it; the consortium, closed."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        consortium = VirtualConsortium(folder, clock, lambda _site, _round: 10 * MINUTE, SITES)
        experiment = plain(**{"sites": [*SITES], "rounds": ROUNDS, "quorum": ALL} | changes)
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
        try:
            script(consortium)
        finally:
            consortium.close()
        assert all(step.agrees for step in replay(open_readonly(folder / "coordinator")))
        return consortium

    return clock.run(body)


def complete(consortium: VirtualConsortium) -> kinds.ExperimentComplete:
    body = consortium.of("experiment-complete")[-1][1].body
    assert isinstance(body, kinds.ExperimentComplete)
    return body


def calm(consortium: VirtualConsortium) -> None:
    consortium.until("experiment-complete", 5 * HOUR)


def state_of(consortium: VirtualConsortium, site: str) -> Any:
    return consortium.agents[site]._steps.agenda.jobs["exp-1"]


def test_a_site_that_was_paused_for_minutes_takes_the_round_on_and_nothing_is_lost(tmp_path: Path) -> None:
    def paused(consortium: VirtualConsortium) -> None:
        consortium.until("round-start", HOUR)
        consortium.order("site-b", paused=True)
        consortium.until("round-complete", HOUR)
        consortium.clock.sleep(MINUTE)
        assert (state_of(consortium, "site-b").phase, state_of(consortium, "site-b").reason) == (
            Phase.IDLE,
            Reason.SITE_PAUSED,
        )
        consortium.order("site-b", paused=False)
        consortium.clock.sleep(MINUTE)
        assert state_of(consortium, "site-b").reason is None
        consortium.until("experiment-complete", 5 * HOUR)

    held = run(tmp_path / "paused", paused)
    assert [set(one.body.contributors) for _at, one in held.of("round-complete")] == [set(SITES)] * 3  # type: ignore[attr-defined]
    assert complete(held).final_digest == complete(run(tmp_path / "calm", calm)).final_digest


def test_a_site_that_pauses_and_resumes_again_and_again_gives_up_and_takes_on_each_time(tmp_path: Path) -> None:
    def restless(consortium: VirtualConsortium) -> None:
        consortium.until("round-start", HOUR)
        for _ in range(3):
            consortium.order("site-b", paused=True)
            consortium.clock.sleep(11 * MINUTE)
            consortium.order("site-b", paused=False)
            consortium.clock.sleep(MINUTE)
        consortium.until("experiment-complete", 10 * HOUR)

    assert complete(run(tmp_path, restless)).rounds == 3


def test_a_site_that_is_paused_beyond_the_round_takes_part_again_in_the_next(tmp_path: Path) -> None:
    def long_pause(consortium: VirtualConsortium) -> None:
        consortium.order("site-b", paused=True)
        consortium.clock.sleep(30 * MINUTE)
        consortium.order("site-b", paused=False)
        consortium.until("experiment-complete", 10 * HOUR)

    rounds = {"count": 8, "enrol_within": 1 * MINUTE, "train_within": 6 * HOUR, "grace": 10.0}
    done = run(tmp_path, long_pause, rounds=rounds, quorum={"least_sites": 1})
    assert complete(done).rounds == 8


def drained(consortium: VirtualConsortium) -> None:
    """site-b is drained in the last round, whose update it still sends; its agent ends."""
    consortium.clock.wait_until(lambda: len(consortium.of("round-start")) == 3, 3 * HOUR, every=MINUTE)
    consortium.order("site-b", draining=True)
    consortium.until("evaluation-start", HOUR)
    consortium.clock.sleep(5 * MINUTE)
    assert consortium.agents["site-b"]._stopping.is_set()


def test_a_site_that_was_drained_before_the_evaluation_scores_when_it_is_started_again(tmp_path: Path) -> None:
    def script(consortium: VirtualConsortium) -> None:
        drained(consortium)
        consortium.clock.sleep(HOUR)
        consortium.start_again("site-b")
        consortium.until("experiment-complete", HOUR)

    done = complete(run(tmp_path, script))
    calm_one = complete(run(tmp_path / "calm", calm))
    assert done.test == calm_one.test


def test_an_experiment_that_waits_for_a_site_can_be_finished_with_its_model(tmp_path: Path) -> None:
    def script(consortium: VirtualConsortium) -> None:
        drained(consortium)
        consortium.say("experiment-finish", kinds.ExperimentFinish())
        consortium.until("experiment-complete", MINUTE)
        consortium.until("model-ready", MINUTE)

    done = complete(run(tmp_path, script, evaluation=LAST))
    assert (done.rounds, done.model_round) == (3, 3)
    assert done.test is not None  # of the site that was there


@pytest.mark.parametrize("ending", ["running", "aborted"])
def test_the_model_of_the_last_round_is_there_whatever_became_of_the_experiment(tmp_path: Path, ending: str) -> None:
    def script(consortium: VirtualConsortium) -> None:
        consortium.clock.wait_until(lambda: len(consortium.of("round-complete")) == 2, 3 * HOUR, every=MINUTE)
        if ending == "aborted":
            consortium.say("experiment-abort", kinds.ExperimentAbort())
            consortium.until("experiment-aborted", MINUTE)
        consortium.say("model-wanted", kinds.ModelWanted(round=2))
        consortium.until("model-ready", MINUTE)
        consortium.say("model-wanted", kinds.ModelWanted(round=1), attempt=2)
        consortium.until("refused", MINUTE)

    done = run(tmp_path, script, evaluation=LAST)
    ready, refused = done.of("model-ready")[-1][1].body, done.of("refused")[-1][1].body
    assert isinstance(ready, kinds.ExperimentComplete)
    assert isinstance(refused, kinds.Refused)
    closed = {one.round: one.body.model_digest for _at, one in done.of("round-complete")}  # type: ignore[attr-defined]
    assert (ready.model_round, ready.model.model_digest) == (2, closed[2])
    assert refused.reason is Reason.WRONG_ROUND


@pytest.mark.parametrize("when", ["running", "paused"])
def test_an_experiment_can_be_finished_in_the_middle_of_a_round(tmp_path: Path, when: str) -> None:
    def script(consortium: VirtualConsortium) -> None:
        consortium.until("round-start", HOUR)
        consortium.say("experiment-finish", kinds.ExperimentFinish())
        consortium.until("refused", MINUTE)  # there is no model yet
        consortium.clock.wait_until(lambda: len(consortium.of("round-complete")) == 1, 3 * HOUR, every=MINUTE)
        if when == "paused":
            consortium.say("experiment-pause", kinds.ExperimentPause())
            consortium.until("experiment-paused", MINUTE)
        consortium.say("experiment-finish", kinds.ExperimentFinish(), attempt=2)
        consortium.until("experiment-complete", MINUTE)
        consortium.until("model-ready", MINUTE)
        consortium.clock.sleep(10 * MINUTE)
        assert {state_of(consortium, site).phase for site in SITES} == {Phase.ENDED}

    done = complete(run(tmp_path, script))
    assert (done.model_round, done.rounds, done.test) == (1, 1, None)


def test_a_round_that_lacked_space_is_tried_again_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = [True]
    from site_agent.disk.spool import Spool

    room = Spool.room_left

    def room_left(spool: Spool, limit: int | None) -> int:
        return 0 if full[0] and spool.globals.parent.name == "site-b" else room(spool, limit)

    monkeypatch.setattr(Spool, "room_left", room_left)

    def script(consortium: VirtualConsortium) -> None:
        consortium.until("round-start", HOUR)
        consortium.clock.sleep(30 * MINUTE)
        assert state_of(consortium, "site-b").reason is Reason.DISK_FULL
        full[0] = False
        consortium.until("experiment-complete", 5 * HOUR)

    assert [set(one.body.contributors) for _at, one in run(tmp_path, script).of("round-complete")] == [set(SITES)] * 3  # type: ignore[attr-defined]
