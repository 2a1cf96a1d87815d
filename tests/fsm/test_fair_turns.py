"""Who waits for a site's slot or the coordinator's pool takes turns by researcher: many hold up nobody else's one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agenda_kit import PREPARED, accepted, model_ready, round_start, said, step, trained

from messages.kinds import ExperimentAborted
from site_agent.core.agenda import list_waiting, restore_agenda
from site_agent.core.effects import Say
from site_agent.core.inputs import Heard, Restarted, Switched
from site_agent.core.jobs import Agenda, Phase
from site_agent.core.policy import PolicyVerdict

MANY = 1500


def announced(name: str, researcher: str, verdict: PolicyVerdict | None = None, opens_in: float = 0.0) -> Heard:
    heard = accepted(name, verdict, opens_in)
    body = heard.event.body.model_copy(update={"researcher": researcher})
    return replace(heard, event=replace(heard.event, body=body))


def queue_of(agenda: Agenda, name: str, researcher: str) -> Agenda:
    """One more experiment, announced by this researcher."""
    return step(agenda, announced(name, researcher))[0]


def prepare(agenda: Agenda) -> Agenda:
    """Who has the slot has read its data, and joins."""
    assert agenda.running is not None
    return step(agenda, replace(PREPARED, experiment=agenda.running))[0]


@pytest.fixture(scope="module")
def crowded() -> Agenda:
    """One researcher's many experiments, and another one's that came last."""
    agenda = Agenda("site-a")
    for number in range(MANY):
        agenda = queue_of(agenda, f"many-{number}", "dr-a")
    return queue_of(agenda, "honest", "dr-b")


def test_an_experiment_behind_1500_of_another_researcher_is_the_next_that_joins(crowded: Agenda) -> None:
    assert prepare(crowded).running == "honest"


def test_its_rounds_wait_for_one_turn_of_the_others_and_no_more(crowded: Agenda) -> None:
    agenda = prepare(prepare(crowded))
    for number in (1, 2, 3):
        agenda = step(agenda, round_start(number, "honest"))[0]
        agenda = step(agenda, model_ready(number, "honest"))[0]
        assert list_waiting(agenda)[0] == "honest"
        agenda = prepare(agenda)
        assert agenda.running == "honest"
        agenda = step(agenda, trained(number, name="honest"))[0]
        assert agenda.phase_of("honest") is Phase.SENDING


def test_a_researcher_gains_no_turn_by_ending_an_experiment_and_starting_another() -> None:
    agenda = prepare(queue_of(Agenda("site-a"), "honest", "dr-b"))
    agenda = queue_of(queue_of(agenda, "first", "dr-a"), "second", "dr-a")
    for heard in (round_start(1, "honest"), model_ready(1, "honest")):
        agenda = step(agenda, heard)[0]
    agenda = step(agenda, Heard(said("experiment-aborted", ExperimentAborted(), name="first")))[0]
    assert agenda.running == "honest"
    agenda = queue_of(agenda, "third", "dr-a")
    assert list_waiting(agenda) == ["second", "third"]


def test_the_experiments_of_one_researcher_take_their_turns_as_they_came() -> None:
    agenda = Agenda("site-a")
    for name in ("e1", "e2", "e3"):
        agenda = queue_of(agenda, name, "dr-a")
    turns = []
    while agenda.running is not None:
        turns.append(agenda.running)
        agenda = prepare(agenda)
    assert turns == ["e1", "e2", "e3"]


CAPPED = PolicyVerdict(most=2)


def crowd(agenda: Agenda, *names: str, researcher: str = "dr-a", opens_in: float = 0.0) -> tuple[Agenda, list[str]]:
    """Announce experiments at a site that lets each researcher have two; who was declined at once, and why."""
    declined = []
    for name in names:
        agenda, _, todo = step(agenda, announced(name, researcher, CAPPED, opens_in))
        declined += [f"{one.experiment}: {one.attempt}" for one in todo if isinstance(one, Say)]
    return agenda, declined


def test_a_site_declines_what_a_researcher_has_too_many_of_and_nobody_else_is_touched() -> None:
    agenda, declined = crowd(Agenda("site-a"), "e1", "e2", "e3")
    assert declined == ["e3: too-many-experiments"]
    agenda, declined = crowd(agenda, "other", researcher="dr-b")
    assert declined == []
    agenda = step(agenda, Heard(said("experiment-aborted", ExperimentAborted(), name="e1")))[0]
    assert crowd(agenda, "e4")[1] == []


def test_a_coordinator_of_older_words_is_told_in_a_code_that_it_knows() -> None:
    agenda, _ = crowd(Agenda("site-a"), "e1", "e2")
    heard = announced("e3", "dr-a", CAPPED)
    todo = step(agenda, replace(heard, event=replace(heard.event, ext={})))[2]
    assert [one.attempt for one in todo if isinstance(one, Say)] == ["not-allowed"]


def test_what_waits_for_the_hours_counts_as_open() -> None:
    agenda, declined = crowd(Agenda("site-a", open=False), "e1", "e2", "e3", opens_in=1e6)
    assert declined == ["e1: outside-hours", "e2: outside-hours", "e3: too-many-experiments"]
    agenda = step(agenda, Switched(open=True))[0]
    assert [agenda.phase_of(name) for name in ("e1", "e2", "e3")] == [Phase.PREPARING, Phase.PREPARING, Phase.DECLINED]


def test_a_restart_takes_on_only_as_many_of_those_declined_as_may_be_open() -> None:
    agenda, _ = crowd(Agenda("site-a"), "e1", "e2", "e3", "e4")
    agenda = step(agenda, Heard(said("experiment-aborted", ExperimentAborted(), name="e1")))[0]
    agenda = step(restore_agenda(agenda), Restarted({"e3": CAPPED, "e4": CAPPED}))[0]
    assert [agenda.phase_of(name) for name in ("e2", "e3", "e4")] == [Phase.PREPARING, Phase.PREPARING, Phase.DECLINED]
