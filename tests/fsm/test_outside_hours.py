"""Outside its allowed hours a site says so, and the coordinator does not wait for it."""

from __future__ import annotations

import pytest
from agenda_kit import PREPARED, WAYS, accepted, after, does, model_ready, round_start
from coordinator_kit import SITES
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core.state import Phase, Timer
from messages.kinds import Declined, RoundAccepted, RoundFailed
from messages.reasons import Reason
from site_agent.core.effects import RunPrepare, RunTrain, Say
from site_agent.core.inputs import AnyInput, Restarted, Switched
from site_agent.core.jobs import Phase as SitePhase
from site_agent.core.policy import PolicyVerdict
from site_agent.desk.status import state_word, status_line

SHUT, OPEN = Switched(open=False), Switched(open=True)


@pytest.mark.parametrize(
    ("opens_in", "says"), [(99.0, RoundAccepted()), (100.0, RoundFailed(reason=Reason.OUTSIDE_HOURS))]
)
def test_a_round_that_would_be_over_before_the_hours_begin_is_refused_with_its_code_and_another_waited_for(
    opens_in: float, says: RoundAccepted | RoundFailed
) -> None:
    agenda, _ = after(WAYS[SitePhase.IDLE])
    _, _, effects = does(agenda, round_start(opens_in=opens_in))  # of 100 s
    assert [one.body for one in effects if isinstance(one, Say)] == [says]


def test_the_round_closes_without_a_site_that_is_outside_its_hours_as_soon_as_the_others_are_here() -> None:
    run = Run()
    run.join()
    run.initial()
    run.wire(RoundFailed(reason=Reason.OUTSIDE_HOURS), "site-b", number=1)
    for site in ("site-a", "site-c"):
        run.report(site, 1)
    closed = [one for one in run.decided if isinstance(one, d.RoundClosed)]
    assert [(list(one.contributors), one.left_out) for one in closed] == [
        (["site-a", "site-c"], {"site-b": Reason.OUTSIDE_HOURS})
    ]
    assert run.state is not None
    assert run.state.phase is Phase.AGGREGATING
    assert Timer.GRACE not in run.state.timers, "nobody waited for grace"
    run.aggregated(1)
    assert run.state.round is not None
    assert set(run.state.round.parts) == set(SITES), "the next round asks it again"


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ([SHUT], "idle"),
        ([SHUT, accepted()], "outside-hours"),
        ([accepted(), PREPARED, SHUT], "idle"),
        ([accepted(), PREPARED, SHUT, round_start()], "fetching"),
        ([accepted(), PREPARED, SHUT, round_start(), model_ready()], "outside-hours"),
        ([accepted(), PREPARED, SHUT, round_start(), model_ready(), OPEN], "training"),
        ([accepted(), PREPARED, round_start(), model_ready(), SHUT], "training"),
        ([accepted(), PREPARED, SHUT, round_start(opens_in=100.0)], "outside-hours"),
        ([accepted(), PREPARED, SHUT, round_start(opens_in=100.0), OPEN], "fetching"),  # it is taken on after all
        ([SHUT, accepted(opens_in=1.0)], "outside-hours"),
        # Here the hours alone would not let it begin:
        ([Switched(paused=True), SHUT, accepted()], "paused"),
        ([Switched(draining=True), SHUT, accepted()], "draining"),
    ],
)
def test_a_site_whose_work_waits_for_the_hours_says_so_and_one_that_has_none_is_idle(
    inputs: list[AnyInput], word: str
) -> None:
    agenda, _ = after(inputs)
    assert state_word(agenda) == word


def test_the_service_manager_is_told_that_a_round_waits_for_the_hours() -> None:
    agenda, _ = after([accepted(), PREPARED, SHUT, round_start(), model_ready()])
    assert status_line(agenda, {}, "connected") == "e: round 1 of 5, outside-hours, 1 waiting; broker connected"


@pytest.mark.parametrize("opens_in", [0.0, 0.5])
def test_a_site_whose_hours_begin_before_enrolment_ends_does_not_decline(opens_in: float) -> None:
    agenda, todo = after([SHUT, accepted(opens_in=opens_in)])
    assert agenda.phase_of("e") is SitePhase.PREPARING
    assert todo == []


def test_a_site_whose_hours_begin_too_late_for_enrolment_says_so_and_joins_when_they_begin() -> None:
    agenda, todo = after([SHUT, accepted(opens_in=1.0)])
    assert [one.body for one in todo if isinstance(one, Say)] == [Declined(reason=Reason.OUTSIDE_HOURS)]
    agenda, todo = after([OPEN], agenda)
    assert todo == [RunPrepare("e")]
    agenda, todo = after([PREPARED, round_start(2), model_ready(2)], agenda)
    assert [one.kind for one in todo if isinstance(one, Say)] == ["joined", "round-accepted"]
    assert todo[-1] == RunTrain("e")


def test_a_site_that_is_restarted_within_its_hours_joins_what_it_declined_for_them() -> None:
    agenda, _ = after([SHUT, accepted(opens_in=1.0), OPEN])
    declined, _ = after([SHUT, accepted(opens_in=1.0)])
    assert after([Restarted({"e": PolicyVerdict()})], declined)[0].phase_of("e") is SitePhase.PREPARING
    assert agenda.phase_of("e") is SitePhase.PREPARING


@pytest.mark.parametrize("verdict", [PolicyVerdict(Reason.NOT_ALLOWED), PolicyVerdict(by_hand=True)])
def test_what_was_declined_for_another_reason_stays_so_when_the_hours_begin(verdict: PolicyVerdict) -> None:
    agenda, before = after([SHUT, accepted(verdict=verdict, opens_in=1.0)])
    assert [one.body.reason for one in before if isinstance(one, Say)] == [verdict.reason or Reason.AWAITS_APPROVAL]
    assert after([OPEN], agenda)[1] == []


def test_enrolment_ends_at_once_when_the_only_sites_that_did_not_join_are_outside_their_hours() -> None:
    run = Run()
    run.join("site-a", "site-c")
    assert run.state is not None
    assert run.state.phase is Phase.RECRUITING
    run.wire(Declined(reason=Reason.OUTSIDE_HOURS), "site-b")
    assert run.state.phase is Phase.INITIALISING
    run.initial()
    run.join("site-b")
    for site in ("site-a", "site-c"):
        run.report(site, 1)
    run.aggregated(1)
    assert run.state.round is not None
    assert set(run.state.round.parts) == set(SITES), "it takes part from the next round"
