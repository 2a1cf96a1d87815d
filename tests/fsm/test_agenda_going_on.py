"""A site under a plan that lets its work go on when a round ends: what it keeps, and when it begins anew."""

from __future__ import annotations

import pytest
from agenda_kit import (
    PREPARED,
    WAYS,
    after,
    model_ready,
    round_complete,
    round_start,
    said,
    step,
    trained,
)

from messages.kinds import RoundStart
from site_agent.core.agenda import decide
from site_agent.core.decisions import Hold
from site_agent.core.effects import Fetch, Halt, Say
from site_agent.core.inputs import ChunksSent, Heard, Receipted, Restarted
from site_agent.core.jobs import Agenda, Phase

AT_WORK = [Phase.FETCHING, Phase.TRAINING, Phase.SENDING]


def opened(number: int, **going_on: int) -> Heard:
    """round-start of a round in which some go on with what they do for an earlier one."""
    body = round_start(number, sites=["site-a", "site-b"]).event.body
    assert isinstance(body, RoundStart)
    named = {site.replace("_", "-"): base for site, base in going_on.items()}
    return Heard(said("round-start", body.model_copy(update={"going_on": named or None}), number))


def working(phase: Phase) -> Agenda:
    """At work for round 1 of an asynchronous experiment."""
    agenda, _ = after(WAYS[phase])
    job = agenda.jobs["e"]
    plan = {"kind": "asynchronous", "buffer": 1}
    changed = job.model_copy(
        update={"digest": "d" * 64, "file": job.file | {"plan": plan, "evaluation": {"select_by": "last"}}}
    )
    agenda.jobs["e"] = changed
    return agenda


@pytest.mark.parametrize("phase", AT_WORK)
def test_work_goes_on_when_its_round_is_complete_and_others_begin_the_next(phase: Phase) -> None:
    agenda = working(phase)
    assert decide(agenda, round_complete(1)) == ()
    assert decide(agenda, opened(2, site_a=1)) == ()
    assert decide(agenda, opened(3, site_a=1)) == ()


@pytest.mark.parametrize("phase", AT_WORK)
def test_work_that_is_too_stale_gives_way_to_the_newest_model(phase: Phase) -> None:
    agenda, _, todo = step(working(phase), opened(3, site_b=1))
    assert (agenda.phase_of("e"), agenda.jobs["e"].round) == (Phase.FETCHING, 3)
    assert [(one.kind, one.round) for one in todo if isinstance(one, Say)] == [("round-accepted", 3)]
    assert (Halt("e") in todo) == (phase is Phase.TRAINING)


def test_a_site_names_the_round_that_it_began_with_and_waits_until_its_update_is_in_a_model() -> None:
    agenda, todo = after([opened(2, site_a=1), trained(), ChunksSent("e", 1, 1)], working(Phase.TRAINING))
    assert [(one.kind, one.round) for one in todo if isinstance(one, Say)] == [("weights-ready", 1)]
    agenda, _, _ = step(agenda, Receipted("e", 1, 1))
    assert agenda.phase_of("e") is Phase.IDLE
    assert decide(agenda, opened(3, site_a=1)) == ()
    agenda, _, todo = step(agenda, opened(4))
    assert [one.key.round for one in todo if isinstance(one, Fetch)] == [4]


def test_a_site_that_was_killed_at_work_goes_on_from_the_model_of_its_round() -> None:
    agenda, _, todo = step(working(Phase.TRAINING), Restarted())
    assert [one.key.round for one in todo if isinstance(one, Fetch)] == [1]
    assert decide(agenda, opened(2, site_a=1)) == ()
    agenda, _ = after([model_ready()], agenda)
    assert agenda.running == "e"


def test_a_site_that_lost_its_work_begins_with_the_open_round() -> None:
    agenda, decided, _ = step(after(WAYS[Phase.PREPARING])[0], opened(3, site_a=1))
    assert [type(one) for one in decided] == [Hold]
    agenda, todo = after([PREPARED], agenda)
    assert ("round-accepted", 3) in [(one.kind, one.round) for one in todo if isinstance(one, Say)]
    agenda, _, todo = step(after(WAYS[Phase.IDLE])[0], opened(3, site_a=1))
    assert ("round-accepted", 3) in [(one.kind, one.round) for one in todo if isinstance(one, Say)]
