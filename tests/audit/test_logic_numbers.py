"""Each entry names the logic number that it was decided under, and is decided anew under that number.

The number above the newest is made up in these tests: a version to come.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path

import machine_run
import pytest
from coordinator_kit import SITES, plain
from coordinator_rig import Consortium
from log_kit import changed, linked, old_state, problems, written
from machine_run import in_phase

from coordinator import service
from coordinator.core import decisions as d
from coordinator.core import logic, machine, rules
from coordinator.core.inputs import TimerFired
from coordinator.core.state import ExperimentState, Phase, Timer
from coordinator.record.journal import STEP, TERM, open_readonly
from coordinator.record.recovery import read_step, step_body
from coordinator.record.replay import replay
from messages import chain, codec, kinds
from messages.chain import Entry
from messages.ground.errors import RequestError

NEXT = logic.LOGIC + 1


def know_next(patch: pytest.MonkeyPatch) -> None:
    """A version to come, which opens rounds otherwise from the next number on: sites have a minute to accept."""
    first = rules.start_next

    def start_next(state: ExperimentState, now: float) -> tuple[d.AnyDecision, ...]:
        decided = first(state, now)
        if state.logic < NEXT:
            return decided
        assert isinstance(decided[0], d.RoundStarted)
        return (decided[0].model_copy(update={"accept_due": now + 60.0}),)

    patch.setattr(logic, "KNOWN", logic.KNOWN | {NEXT: "sites have a minute to accept a round"})
    patch.setattr(rules, "start_next", start_next)


def upgraded_in_round_1(patch: pytest.MonkeyPatch) -> list[Entry]:
    """An experiment that begins under the newest number, and goes on under the next from its round 1 on."""
    run = in_phase(Phase.RUNNING)
    before = len(run.steps)
    patch.setattr(machine_run, "decide", partial(machine.decide, logic=NEXT))
    for site in SITES:
        run.report(site, 1)
    run.aggregated(1)
    assert run.state is not None
    assert run.state.round is not None
    numbers = [logic.LOGIC] * before + [NEXT] * (len(run.steps) - before)
    return linked(("exp-1", step_body(*step, number)) for step, number in zip(run.steps, numbers, strict=True))


def test_what_was_decided_under_a_number_is_decided_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = written(in_phase(Phase.COMPLETE))
    know_next(monkeypatch)
    assert problems(earlier) == []
    entries = upgraded_in_round_1(monkeypatch)
    waits = [
        one.accept_due - one.time for entry in entries for one in read_step(entry)[1] if isinstance(one, d.RoundStarted)
    ]
    assert waits == [rules.ACCEPT_WITHIN, 60.0]
    assert problems(entries) == []


@pytest.mark.parametrize("number", sorted(logic.KNOWN))
def test_every_rule_sees_the_number_that_it_is_to_decide_under(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(name: str) -> None:
        rule = getattr(rules, name)

        def watched(state: ExperimentState, now: float) -> tuple[d.AnyDecision, ...]:
            seen.append(state.logic)
            decided: tuple[d.AnyDecision, ...] = rule(state, now)
            return decided

        monkeypatch.setattr(rules, name, watched)

    watch("advance_state")
    run = in_phase(Phase.RECRUITING)
    seen.clear()
    machine.decide(None, run.steps[0][0], number)
    assert seen == [number]
    watch("close_recruiting")
    machine.decide(run.state, TimerFired(time=1e9, timer=Timer.ENROL), number)
    assert seen == [number] * 3


@pytest.mark.parametrize("number", [*sorted(logic.KNOWN), NEXT])
def test_decisions_under_another_number_than_the_entry_names_do_not_follow(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_next(monkeypatch)
    wrong = problems(changed(upgraded_in_round_1(monkeypatch), lambda body: body.update(logic=number)))
    assert set(wrong) == {"the decisions do not follow from the input"}


def test_replay_says_which_version_can_decide_anew_what_this_one_cannot() -> None:
    entries = changed(written(in_phase(Phase.RECRUITING)), lambda body: body.update(logic=7))
    (step,) = replay(entries)
    assert not step.agrees
    assert f"decision logic 7; this version knows 0 to {logic.LOGIC}" in step.problem
    assert "replay it with the Konsil version that wrote it, or a newer one" in step.problem


def test_the_number_stands_in_each_start_and_in_each_step_of_an_export(tmp_path: Path) -> None:
    made = Consortium(tmp_path)
    try:
        made.start()
        made.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
        made.until("experiment-accepted")
    finally:
        made.close()
    entries = list(open_readonly(tmp_path))
    (term,) = [codec.unpack(one.body) for one in entries if one.type == TERM]
    assert term == {"term": 1, "logic": logic.LOGIC, "konsil": version("konsil")}
    export = tmp_path / "log"
    chain.write_export(export, (one for one in entries if one.experiment == "exp-1"))
    assert {codec.unpack(one.body)["logic"] for one in chain.read_export(export)} == {logic.LOGIC}


def test_a_coordinator_does_not_go_on_with_the_journal_of_a_newer_logic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Consortium(tmp_path)
    try:
        with monkeypatch.context() as newer:
            newer.setattr(service, "LOGIC", 7)
            newer.setattr(service, "version", lambda _name: "3.2.1")
            newer.setattr(logic, "KNOWN", {7: "a later version's"})
            made.start()
            made.stop()
        before = list(open_readonly(tmp_path))
        with pytest.raises(RequestError) as caught:
            made.start()
        said = str(caught.value)
        assert "a newer Konsil has gone on with this journal" in said
        assert f"decision logic 7; this version knows 0 to {logic.LOGIC}" in said
        assert "Use Konsil 3.2.1, or a newer one" in said
        assert list(open_readonly(tmp_path)) == before
    finally:
        made.close()


def test_a_coordinator_goes_on_with_the_journal_of_the_first_release_under_its_own_number(tmp_path: Path) -> None:
    old = old_state(tmp_path / "old")
    made = Consortium(old)
    try:
        made.start()
        made.join()
        made.until("experiment-complete", 2)
    finally:
        made.close()
    numbers = [codec.unpack(one.body).get("logic") for one in open_readonly(old) if one.type == STEP]
    first = numbers.index(logic.LOGIC)
    assert set(numbers[:first]) == {None}
    assert set(numbers[first:]) == {logic.LOGIC}
    assert problems(open_readonly(old)) == []
