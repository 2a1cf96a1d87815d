"""A defect in whatever handler ends as a reason code: nobody waits for what will never come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain
from scripted_trainers import Script, ScriptedTrainers
from virtual_consortium import VirtualConsortium

from coordinator.core import machine
from coordinator.core import rules as coordinator_rules
from coordinator.core.state import Phase
from coordinator.record.journal import open_readonly
from coordinator.record.replay import replay
from messages import kinds
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from messages.tasks.segmentation import CaseRow, RegionRow, SplitRows
from site_agent.core import agenda as site_table
from site_agent.core.jobs import Phase as SitePhase
from site_agent.data import guard
from site_agent.trainers.requests import Workshop
from site_agent.wire.receiver import ChunkReceiver
from site_agent.wire.sender import ChunkSender

SITES = ("site-a", "site-b")
HOUR = 3600.0
ROUNDS = {"count": 1, "enrol_within": 1 * HOUR, "train_within": 20 * HOUR, "grace": 10 * HOUR}


def raising(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a defect")


def at_site_b(original: Callable[..., Any], site_of: Callable[..., str]) -> Callable[..., Any]:
    return lambda *given, **more: raising() if site_of(*given) == "site-b" else original(*given, **more)


def run(
    folder: Path, end: str = "experiment-complete", within: float = 5 * HOUR, takes: float = 600.0, **changes: Any
) -> VirtualConsortium:
    """One experiment until its end; the consortium, closed."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        consortium = VirtualConsortium(folder, clock, lambda _site, _round: takes, SITES)
        experiment = plain(**{"sites": [*SITES], "rounds": ROUNDS, "quorum": {"least_sites": 1}} | changes)
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
        try:
            consortium.until(end, within)
        finally:
            consortium.close()
        return consortium

    return clock.run(body)


def last(consortium: VirtualConsortium, kind: str) -> Any:
    return consortium.of(kind)[-1][1].body


def test_an_experiment_with_hd95_is_complete_where_a_prediction_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = RegionRow(dice=0.0, reference_empty=False, prediction_empty=True)
    found = RegionRow(dice=0.8, reference_empty=False, prediction_empty=False, hd95=2.0)

    def rows(script: Any, split: Any) -> SplitRows:
        count = script._split_shares()[split]
        cases = [CaseRow(case=f"{n}", regions={"WT": missed if n == 0 else found}) for n in range(count)]
        return SplitRows(split=split, cases=cases, hd95=True)

    monkeypatch.setattr(Script, "_make_rows", rows)
    done = last(run(tmp_path, evaluation={"metrics": ["dice", "hd95"]}), "experiment-complete")
    dice, distance = done.test.metrics["dice"]["WT"], done.test.metrics["hd95"]["WT"]
    assert (distance.mean, distance.n, distance.both_empty) == (2.0, dice.n - 2, 0)


WORKSHOP = {
    "a reply with scores": (Workshop, "take_scored"),
    "sealing an update": (Workshop, "take_trained"),
    "asking for a round": (Workshop, "train_round"),
    "asking for an evaluation": (Workshop, "evaluate_model"),
}


@pytest.mark.parametrize("what", WORKSHOP)
def test_a_defect_in_what_a_site_does_with_its_trainer_costs_it_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    owner, name = WORKSHOP[what]
    monkeypatch.setattr(owner, name, at_site_b(getattr(owner, name), lambda self, *_: self._config.site.name))
    consortium = run(tmp_path)
    ended = last(consortium, "experiment-complete")
    assert ended.test is not None
    left_out = last(consortium, "round-complete").left_out
    assert left_out == ({} if "scores" in what or "evaluation" in what else {"site-b": Reason.TRAINING_ERROR})


def test_a_defect_on_the_thread_that_sends_gives_the_round_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChunkSender._send_task
    monkeypatch.setattr(ChunkSender, "_send_task", at_site_b(whole, lambda _self, task: task.key.sender))
    assert last(run(tmp_path), "round-complete").left_out == {"site-b": Reason.TRAINING_ERROR}


def test_a_defect_on_the_thread_that_receives_gives_the_round_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ChunkReceiver._announce_transfer
    site_of = lambda self, *_: self._spool.globals.parent.name  # noqa: E731
    monkeypatch.setattr(ChunkReceiver, "_announce_transfer", at_site_b(whole, site_of))
    assert last(run(tmp_path), "round-complete").left_out == {"site-b": Reason.TRAINING_ERROR}


def test_a_defect_while_a_data_set_is_looked_at_declines_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        guard, "look_at", at_site_b(guard.look_at, lambda config: config.path.name.removeprefix("data-"))
    )
    consortium = run(tmp_path, within=0.9 * HOUR)
    assert set(last(consortium, "round-complete").contributors) == {"site-a"}
    states = consortium.coordinator.shell.steps.states["exp-1"]
    assert states.members["site-b"].reason is Reason.TRAINING_ERROR


@pytest.mark.parametrize("kind", ["round-start", "evaluation-start"])
def test_an_event_that_a_site_cannot_handle_is_answered_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    whole = site_table.TABLE[SitePhase.IDLE, kind]
    poisoned = at_site_b(whole, lambda agenda, *_: agenda.site)
    monkeypatch.setattr(site_table, "TABLE", {**site_table.TABLE, (SitePhase.IDLE, kind): poisoned})
    consortium = run(tmp_path)
    left_out = last(consortium, "round-complete").left_out
    assert left_out == ({"site-b": Reason.TRAINING_ERROR} if kind == "round-start" else {})


def journal_agrees(folder: Path) -> bool:
    return all(step.agrees for step in replay(open_readonly(folder / "coordinator")))


@pytest.mark.parametrize("kind", ["weights-ready", "evaluated"])
def test_an_answer_that_the_coordinator_cannot_handle_counts_as_failed_and_its_site_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    phase = Phase.RUNNING if kind == "weights-ready" else Phase.EVALUATING
    poisoned = at_site_b(machine.TABLE[phase, kind], lambda _state, given: given.event.sender)  # type: ignore[arg-type]
    monkeypatch.setattr(machine, "TABLE", {**machine.TABLE, (phase, kind): poisoned})
    consortium = run(tmp_path)
    if kind == "weights-ready":
        assert last(consortium, "round-complete").left_out == {"site-b": Reason.AGGREGATION_FAILED}
    assert journal_agrees(tmp_path)


@pytest.mark.parametrize(("phase", "kind"), [(Phase.AGGREGATING, "aggregated"), (Phase.INITIALISING, "initialised")])
def test_own_work_that_cannot_be_handled_ends_the_experiment_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Phase, kind: str
) -> None:
    monkeypatch.setattr(machine, "TABLE", {**machine.TABLE, (phase, kind): raising})
    failed = last(run(tmp_path, "experiment-failed"), "experiment-failed")
    assert failed.reason in (Reason.AGGREGATION_FAILED, Reason.INITIALISATION_FAILED)
    assert journal_agrees(tmp_path)


def test_a_timer_that_cannot_be_handled_again_and_again_ends_the_experiment_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_rules, "meet_silence", raising)
    monkeypatch.setattr(coordinator_rules, "meet_deadline", raising)
    never = {"count": 1, "enrol_within": 1 * HOUR, "train_within": 60.0, "grace": 1.0}
    failed = last(run(tmp_path, "experiment-failed", takes=9 * HOUR, rounds=never), "experiment-failed")
    assert failed.reason is Reason.AGGREGATION_FAILED


def test_work_that_cannot_even_begin_ends_the_experiment_with_a_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.work.pool.Work.aggregate_updates", raising)
    assert last(run(tmp_path, "experiment-failed"), "experiment-failed").reason is Reason.AGGREGATION_FAILED


def test_what_fails_in_every_turn_of_an_agents_loop_does_not_silence_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScriptedTrainers, "bound_logs", raising)
    consortium = run(tmp_path)
    signs = consortium.coordinator._parts.presence._signs
    assert all(signs[site].heard_at is not None for site in SITES)
