"""The state machine: pair by pair, and under any order of events."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import MANIFEST, SITES, plain, received, scores, weights
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from machine_run import BODIES, SEAL, Run, in_phase

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.effects import Announce, effects, pending_effects
from coordinator.core.inputs import OWN_KINDS
from coordinator.core.machine import TABLE, WIRE, IllegalInput, decide
from coordinator.core.state import ENDED, Phase, Timer
from messages import kinds
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores

ACTIVE = frozenset(Phase) - ENDED - {Phase.NONE}
ALL = sorted(ACTIVE | ENDED)


@pytest.mark.parametrize("phase", ALL)
@pytest.mark.parametrize("kind", WIRE)
def test_every_kind_from_the_wire_is_answered_in_every_phase(phase: Phase, kind: str) -> None:
    run = in_phase(phase)
    assert run.state is not None
    assert run.state.phase is phase
    sender = "dr-a" if kind.startswith("experiment") else "site-a"
    decided = run.wire(BODIES[kind], sender, number=1)
    receipts = [one for one in decided if isinstance(one, d.Settled)]
    taken = any(isinstance(one, d.UpdateAnnounced) for one in decided)
    assert taken or receipts, "neither used nor told"
    rule = TABLE.get((phase, kind))
    if isinstance(rule, Reason):
        assert [one.reason for one in decided if isinstance(one, d.Refused)] == [rule]


@pytest.mark.parametrize("kind", [kind for kind in WIRE if kind not in ("experiment-start", "head-witnessed")])
def test_an_event_of_an_unknown_experiment_is_refused(kind: str) -> None:
    decided = decide(None, received(kind, BODIES[kind], "site-a", 1.0))
    assert isinstance(decided[0], d.Refused)
    assert decided[0].reason is Reason.UNKNOWN_EXPERIMENT


def test_a_cosigned_head_is_of_no_experiment_and_recorded_of_a_site_that_is_known() -> None:
    given = received("head-witnessed", BODIES["head-witnessed"], "site-a", 1.0)
    decided = decide(None, given)
    assert decided[0] == d.Witnessed(site="site-a", size=7)
    assert isinstance(decided[1], d.Settled)
    (refused, _settled) = decide(None, given.model_copy(update={"known": False}))
    assert isinstance(refused, d.Refused)
    assert refused.reason is Reason.UNKNOWN_SITE


OWN: dict[str, Any] = {
    "initialised": i.Initialised(time=1, manifest=MANIFEST, seal=SEAL, digest="0" * 64),
    "initialisation-failed": i.InitialisationFailed(time=1),
    "update-stored": i.UpdateStored(time=1, site="site-a", round=1, attempt=1),
    "update-bad": i.UpdateBad(time=1, site="site-a", round=1, attempt=1, reason=Reason.WRONG_DIGEST),
    "aggregated": i.Aggregated(time=1, round=1, seal=SEAL, digest="0" * 64),
    "aggregation-failed": i.AggregationFailed(time=1, round=1),
    "sum-refused": i.SumRefused(time=1, round=1, reason=Reason.SUM_OUT_OF_RANGE),
    "handling-failed": i.HandlingFailed(time=1, kind="aggregated", round=1),
    "timer-fired": i.TimerFired(time=1, timer=Timer.GRACE),
    "outage": i.Outage(time=2, since=1),
    "disk-full": i.DiskFull(time=1),
    "disk-free": i.DiskFree(time=1),
    "barred": i.Barred(time=1, site="site-a"),
}


@pytest.mark.parametrize("phase", [phase for phase in ALL if phase is not Phase.PAUSED])
@pytest.mark.parametrize("kind", OWN_KINDS)
def test_an_own_input_is_in_the_table_or_raises(phase: Phase, kind: str) -> None:
    state = in_phase(phase).state
    if (phase, kind) in TABLE:
        assert isinstance(decide(state, OWN[kind]), tuple)
    else:
        with pytest.raises(IllegalInput):
            decide(state, OWN[kind])


def test_the_whole_life_of_an_experiment() -> None:
    run = in_phase(Phase.COMPLETE)
    assert run.state is not None
    assert run.state.outcome is not None
    assert (run.state.outcome.label, run.state.outcome.rounds) == ("final", 2)


def test_the_best_validated_model_is_chosen_over_the_final_one() -> None:
    run = Run(rounds={"count": 3, "enrol_within": 100.0, "train_within": 1000.0})
    run.join()
    run.initial()
    for number, mean in ((1, None), (2, 0.9), (3, 0.2)):
        for site in SITES:
            run.report(site, number, validation=None if mean is None else scores(mean))
        run.aggregated(number)
    assert run.state is not None
    for site in SITES:
        digests = {"final": run.state.models[4].digest, "selected": run.state.models[2].digest}
        found = {
            label: kinds.ModelScores(model_digest=digest, splits={"validation": scores(0.5), "test": scores(0.4)})
            for label, digest in digests.items()
        }
        run.wire(kinds.Evaluated(scores=found), site, number=4)
    assert run.state.outcome is not None
    assert (run.state.outcome.label, run.state.outcome.rounds) == ("selected", 1)


def reasons(decided: tuple[d.AnyDecision, ...]) -> list[Reason]:
    return [one.reason for one in decided if isinstance(one, d.Refused)]


def test_a_late_update_is_refused_and_told() -> None:
    run = in_phase(Phase.RUNNING)
    run.report("site-a", 1)
    run.report("site-b", 1)
    run.fire(Timer.GRACE)
    assert run.state is not None
    assert run.state.phase is Phase.AGGREGATING
    assert reasons(run.wire(weights(1), "site-c", number=1)) == [Reason.LATE]


def test_a_round_does_not_wait_for_an_absent_site_once_quorum_is_met() -> None:
    run = in_phase(Phase.RUNNING)
    for site in ("site-a", "site-b"):
        run.wire(kinds.RoundAccepted(), site, number=1)
    for _ in range(3):
        run.fire(Timer.ACCEPT)
    run.report("site-a", 1)
    run.report("site-b", 1)
    assert run.state is not None
    assert run.state.phase is Phase.AGGREGATING
    assert run.state.round is not None
    assert run.state.round.left_out == {"site-c": Reason.ABSENT}


def test_rubbish_updates_are_refused_by_their_reason() -> None:
    run = in_phase(Phase.RUNNING)
    other = MANIFEST.model_copy(update={"tensors": MANIFEST.tensors[:1]})
    shape = kinds.Transfer(round=1, seal=SEAL, manifest=other)
    assert reasons(run.wire(weights(1, transfer=shape), "site-a", number=1)) == [Reason.WRONG_SHAPE]
    assert reasons(run.wire(weights(1, cases=0), "site-a", number=1)) == [Reason.NO_CASES]
    assert reasons(run.wire(weights(2), "site-a", number=2)) == [Reason.WRONG_ROUND]
    assert reasons(run.wire(weights(1), "site-x", number=1)) == [Reason.NOT_INVITED]
    assert reasons(run.wire(weights(1), "site-a", number=1, known=False)) == [Reason.UNKNOWN_SITE]
    run.wire(weights(1, attempt=3), "site-a", number=1, attempt=3)
    older = run.wire(weights(1, attempt=2), "site-a", number=1, attempt=2)
    assert reasons(older) == [Reason.OLDER_ATTEMPT]


FOREIGN = [
    SplitScores(cases=1, metrics={"dice": {"Mueller": ScoreSums()}}),
    SplitScores(cases=1, rows=[{"Mueller": 0.5}]),
]


@pytest.mark.parametrize("told", FOREIGN, ids=["sums", "rows"])
def test_scores_of_regions_that_the_experiment_does_not_name_are_refused(told: SplitScores) -> None:
    run = in_phase(Phase.RUNNING)
    assert reasons(run.wire(weights(1, validation=told), "site-a", number=1)) == [Reason.MALFORMED]
    assert run.state is not None
    assert run.state.round is not None
    assert run.state.round.parts["site-a"].failed is Reason.MALFORMED

    run = in_phase(Phase.EVALUATING)
    assert run.state is not None
    one = kinds.ModelScores(model_digest=run.state.models[3].digest, splits={"test": told})
    assert reasons(run.wire(kinds.Evaluated(scores={"final": one}), "site-a", number=3)) == [Reason.MALFORMED]


def test_the_owner_alone_ends_an_experiment() -> None:
    run = in_phase(Phase.RUNNING)
    assert reasons(run.wire(kinds.ExperimentAbort(), "dr-b")) == [Reason.NOT_THE_OWNER]
    run.wire(kinds.ExperimentAbort(), "dr-a")
    assert run.state is not None
    assert run.state.phase is Phase.ABORTED


def test_a_pause_stops_the_clock_and_keeps_what_comes_in() -> None:
    run = in_phase(Phase.RUNNING)
    assert run.state is not None
    left = run.state.timers[Timer.DEADLINE] - run.time - 1
    run.wire(kinds.ExperimentPause())
    for site in SITES:
        run.report(site, 1)
    assert run.state.phase is Phase.PAUSED
    assert not run.state.timers
    assert run.state.remaining[Timer.DEADLINE] == left
    run.wire(kinds.ExperimentResume())
    assert run.state.phase is Phase.AGGREGATING


def test_a_round_without_quorum_is_extended_and_then_fails() -> None:
    run = in_phase(Phase.FAILED)
    assert run.state is not None
    assert run.state.reason is Reason.QUORUM_NOT_MET


def test_too_few_sites_at_the_enrolment_deadline_fail_the_experiment() -> None:
    run = Run()
    run.join("site-a")
    run.fire(Timer.ENROL)
    assert run.state is not None
    assert run.state.reason is Reason.ENROLMENT_FAILED


def test_a_site_that_awaits_approval_has_not_answered_and_is_waited_for_until_it_joins() -> None:
    run = Run(quorum={"least_sites": "all"})
    run.join("site-a", "site-b")
    run.wire(kinds.Declined(reason=Reason.AWAITS_APPROVAL), "site-c")
    assert run.state is not None
    assert run.state.phase is Phase.RECRUITING
    run.join("site-c")
    assert run.state.phase is Phase.INITIALISING
    assert run.state.joined == SITES


def test_a_site_whose_approval_comes_after_enrolment_takes_part_from_the_next_round() -> None:
    run = Run()
    run.join("site-a", "site-b")
    run.wire(kinds.Declined(reason=Reason.AWAITS_APPROVAL), "site-c")
    run.fire(Timer.ENROL)
    run.initial()
    assert run.state is not None
    assert run.state.round is not None
    assert set(run.state.round.parts) == {"site-a", "site-b"}
    run.join("site-c")
    run.report("site-a", 1)
    run.report("site-b", 1)
    run.aggregated(1)
    assert set(run.state.round.parts) == set(SITES)


def test_a_site_that_declines_for_good_after_it_awaited_approval_has_answered() -> None:
    run = Run(quorum={"least_sites": "all"})
    run.join("site-a", "site-b")
    run.wire(kinds.Declined(reason=Reason.AWAITS_APPROVAL), "site-c")
    run.wire(kinds.Declined(reason=Reason.NOT_ALLOWED), "site-c")
    assert run.state is not None
    assert run.state.reason is Reason.ENROLMENT_FAILED


def test_an_outage_is_given_back_to_the_timers() -> None:
    run = in_phase(Phase.RUNNING)
    assert run.state is not None
    before = dict(run.state.timers)
    run.put(i.Outage(time=run.time + 500, since=run.time))
    assert run.state.timers == {name: due + 500 for name, due in before.items()}


def test_a_clock_that_was_set_back_while_the_coordinator_was_down_moves_no_deadline_away() -> None:
    run = in_phase(Phase.RUNNING)
    assert run.state is not None
    before = dict(run.state.timers)
    run.put(i.Outage(time=run.time - 86_400, since=run.time))
    assert run.state.timers == {name: due - 86_400 for name, due in before.items()}


def test_an_id_that_is_taken_by_other_content_is_refused() -> None:
    run = Run()
    assert not [one for one in run.wire(BODIES["experiment-start"]) if isinstance(one, d.StartRefused)]
    decided = run.wire(kinds.ExperimentStart(experiment=plain(seed=1)))
    assert [one.reason for one in decided if isinstance(one, d.StartRefused)] == [Reason.ID_TAKEN]


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"net": {"name": "VNetX"}}, Reason.UNKNOWN_NET, "VNetX"),
        ({"training": {"patch": [32, 32, 31]}}, Reason.INVALID_EXPERIMENT, "multiple of 2"),
        (
            {"net": {"name": "UNet", "channels": [4, 8], "strides": [2], "norm": "group"}},
            Reason.INVALID_EXPERIMENT,
            "cannot divide 1 outputs",
        ),
        ({"rounds": {"count": 0}}, Reason.INVALID_EXPERIMENT, "rounds.count"),
    ],
)
def test_an_experiment_that_no_site_could_train_is_refused_with_the_words(
    changes: dict[str, Any], reason: Reason, words: str
) -> None:
    (refused, _receipt) = decide(
        None, received("experiment-start", kinds.ExperimentStart(experiment=plain(**changes)), "dr-a", 1.0)
    )
    assert isinstance(refused, d.StartRefused)
    assert refused.reason is reason
    assert words in refused.mistakes


def paused_by_disk() -> Run:
    run = in_phase(Phase.RUNNING)
    run.put(i.DiskFull(time=run.time))
    return run


def test_a_pause_while_the_disk_is_full_stays_when_there_is_space_again() -> None:
    run = paused_by_disk()
    assert run.state is not None
    left = run.state.remaining
    run.wire(BODIES["experiment-pause"])
    run.put(i.DiskFree(time=run.time))
    assert (run.state.phase, run.state.paused_because, run.state.remaining) == (Phase.PAUSED, None, left)
    run.wire(BODIES["experiment-resume"])
    assert run.state.phase is Phase.RUNNING


def test_logs_of_earlier_logic_refuse_that_pause_as_they_did() -> None:
    run = paused_by_disk()
    given = received("experiment-pause", BODIES["experiment-pause"], "dr-a", run.time)
    assert [one.reason for one in decide(run.state, given, 2) if isinstance(one, d.Refused)] == [Reason.WRONG_STATE]
    assert isinstance(decide(run.state, given)[0], d.Paused)


OWN_STEPS = ["initialised", "aggregated", "disk-full", "disk-free", "outage"]

STEPS = st.one_of(
    st.tuples(st.just("wire"), st.sampled_from(sorted(WIRE)), st.sampled_from([*SITES, "dr-a", "site-x"])),
    st.tuples(st.just("stored"), st.sampled_from(SITES), st.booleans()),
    st.tuples(st.just("timer"), st.sampled_from(sorted(Timer)), st.integers(0, 2000)),
    st.tuples(st.just("own"), st.sampled_from(OWN_STEPS), st.none()),
    st.tuples(st.just("helped"), st.sampled_from(SITES), st.none()),
)


@settings(max_examples=150, deadline=None)
@any_of(steps=st.lists(STEPS, max_size=40), joined=st.booleans())
def test_no_order_of_events_breaks_the_machine(steps: list[tuple[str, Any, Any]], joined: bool) -> None:
    run = Run()
    if joined:
        run.join()
        run.initial()
    for what, first, second in steps:
        state = run.state
        assert state is not None
        number = state.round.number if state.round is not None else state.completed
        if what == "wire":
            body = weights(number) if first == "weights-ready" else BODIES[first]
            run.wire(body, second, number=number)
        elif what == "helped":
            run.wire(weights(number), first, number=number)
            _own(run, i.UpdateStored(time=run.time, site=first, round=number, attempt=1))
        elif what == "stored":
            bad = i.UpdateBad(time=run.time, site=first, round=number, attempt=1, reason=Reason.WRONG_DIGEST)
            good = i.UpdateStored(time=run.time, site=first, round=number, attempt=1)
            _own(run, good if second else bad)
        elif what == "timer":
            run.time += second
            _own(run, i.TimerFired(time=run.time, timer=first))
        elif first == "aggregated":
            _own(run, i.Aggregated(time=run.time, round=number, seal=f"{number:064d}", digest=SEAL))
        elif first == "initialised":
            _own(run, i.Initialised(time=run.time, manifest=MANIFEST, seal=SEAL, digest=SEAL))
        elif first == "outage":
            _own(run, i.Outage(time=run.time + 5, since=run.time))
        elif first == "disk-free":
            _own(run, i.DiskFree(time=run.time))
        else:
            _own(run, i.DiskFull(time=run.time))


def _own(run: Run, given: i.AnyInput) -> None:
    """Own inputs come only where the table has them."""
    assert run.state is not None
    if (run.state.stage, i.kind_of(given)) in TABLE:
        run.put(given)


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.EVALUATING])
def test_a_coordinator_killed_before_it_told_of_a_round_tells_of_it_when_it_is_back(phase: Phase) -> None:
    run = in_phase(phase)
    if phase is Phase.RUNNING:
        for site in SITES:
            run.report(site, 1)
        run.aggregated(1)
    assert run.state is not None
    (made,) = [one for one in run.decided if isinstance(one, d.RoundCompleted) and one.number == run.state.completed]
    told = [one for one in effects(run.state, made) if isinstance(one, Announce)]
    assert [one.what.kind for one in told] == ["round-complete"]
    assert pending_effects(run.state)[:1] == tuple(told)
