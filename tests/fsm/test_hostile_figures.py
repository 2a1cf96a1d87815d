"""What a site says of its cases, scores and updates decides no more than it should: refused, bounded, or excluded."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import SITES, counts, plain, received, scores, weights
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from machine_run import Run, in_phase
from pydantic import ValidationError

from coordinator.core import checks
from coordinator.core import decisions as d
from coordinator.core import effects as e
from coordinator.core import inputs as i
from coordinator.core.machine import decide
from coordinator.core.records import Bounds
from coordinator.core.state import ExperimentState, Member, Phase, Standing, Timer
from messages import kinds
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores, pool_scores

HUGE = 2**53
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={}, deterministic=True)


def state_of(run: Run) -> ExperimentState:
    assert run.state is not None
    return run.state


def refusals(decided: tuple[d.AnyDecision, ...]) -> list[Reason]:
    return [one.reason for one in decided if isinstance(one, d.Refused)]


def bounded(**bounds: Any) -> Run:
    """An experiment that began under an operator's bounds."""
    run = Run.__new__(Run)
    run.state, run.time, run.decided, run.steps, run.told = None, 1000.0, [], [], {}
    start = received("experiment-start", kinds.ExperimentStart(experiment=plain()), "dr-a", 1000.0)
    run.put(start.model_copy(update={"bounds": Bounds(**bounds)}))
    return run


def in_round(run: Run) -> Run:
    run.join()
    run.initial()
    return run


def perfect(cases: int) -> SplitScores:
    return SplitScores(
        cases=cases, metrics={"dice": {"WT": ScoreSums(n=cases, sum=float(cases), squares=float(cases))}}
    )


# weights


@pytest.mark.parametrize("claimed", [11, 10**6, HUGE])
def test_an_update_of_more_cases_than_its_site_joined_with_is_refused(claimed: int) -> None:
    run = in_phase(Phase.RUNNING)
    assert refusals(run.wire(weights(1, cases=claimed), "site-a", number=1)) == [Reason.TOO_MANY_CASES]
    round_ = state_of(run).round
    assert round_ is not None
    assert round_.parts["site-a"].failed is Reason.TOO_MANY_CASES


def test_a_data_set_that_grew_counts_from_the_round_after_it_was_announced() -> None:
    run = in_phase(Phase.RUNNING)
    run.wire(kinds.Joined(cases=counts(12), platform=PLATFORM), "site-a", attempt=2)
    assert refusals(run.wire(weights(1, cases=12), "site-a", number=1)) == [Reason.TOO_MANY_CASES]
    for site in ("site-b", "site-c"):
        run.report(site, 1)
    run.aggregated(1)
    run.report("site-a", 2, cases=12)
    round_ = state_of(run).round
    assert round_ is not None
    assert round_.parts["site-a"].stored


@pytest.mark.parametrize("claimed", [HUGE, 31])
def test_a_site_that_claims_more_cases_than_the_operator_allows_does_not_join(claimed: int) -> None:
    run = bounded(cases_max=32)
    many = kinds.Joined(cases=counts(claimed), platform=PLATFORM)
    assert refusals(run.wire(many, "site-a")) == [Reason.TOO_MANY_CASES]
    run.wire(kinds.Joined(cases=counts(30), platform=PLATFORM), "site-a", attempt=2)
    assert state_of(run).joined == ("site-a",)


def test_no_site_joins_with_more_cases_than_sums_of_them_can_hold() -> None:
    run = Run()
    assert refusals(run.wire(kinds.Joined(cases=counts(HUGE), platform=PLATFORM), "site-a")) == [Reason.TOO_MANY_CASES]


def test_the_operators_cap_holds_whatever_the_experiment_says() -> None:
    run = in_round(bounded(weight_cap=0.4))
    for site in SITES:
        run.report(site, 1)
    (made,) = [one for one in e.pending_effects(state_of(run)) if isinstance(one, e.Aggregate)]
    assert made.weight_cap == 0.4


@pytest.mark.parametrize("loss", [1e308, -1e300, 1e13])
def test_a_loss_that_no_net_has_is_refused(loss: float) -> None:
    run = in_phase(Phase.RUNNING)
    assert refusals(run.wire(weights(1, loss=loss), "site-a", number=1)) == [Reason.MALFORMED]


# scores


@pytest.mark.parametrize("cases", [2, 2**50, HUGE])
def test_validation_scores_of_more_cases_than_the_site_joined_with_are_refused_and_the_round_goes_on(
    cases: int,
) -> None:
    run = Run(rounds={"count": 2, "enrol_within": 100.0, "train_within": 1000.0})
    in_round(run)
    for site in SITES:
        run.report(site, 1)
    run.aggregated(1)
    told = run.wire(weights(2, validation=perfect(cases)), "site-a", number=2)
    assert refusals(told) == [Reason.IMPLAUSIBLE_SCORES]
    for site in SITES[1:]:
        run.report(site, 2, validation=scores(0.5))
    run.aggregated(2)
    (made,) = [one for one in run.decided if isinstance(one, d.RoundCompleted) and one.number == 2]
    assert made.left_out == {"site-a": Reason.IMPLAUSIBLE_SCORES}
    assert made.validation is not None
    assert made.validation.mean_score("dice") == 0.5


def test_test_scores_of_more_cases_than_the_site_joined_with_are_refused_and_nobody_waits_for_better_ones() -> None:
    run = in_phase(Phase.EVALUATING)
    digest = state_of(run).models[3].digest
    one = kinds.ModelScores(model_digest=digest, splits={"test": perfect(2**50)})
    told = run.wire(kinds.Evaluated(scores={"final": one}), "site-a", number=3)
    assert refusals(told) == [Reason.IMPLAUSIBLE_SCORES]
    for site in SITES[1:]:
        run.evaluated(site)
    outcome = state_of(run).outcome
    assert outcome is not None
    assert outcome.test is not None
    assert (outcome.test.cases, outcome.test.mean_score("dice")) == (2, 0.25)


def sums(n: int, total: float, squares: float, false_positive: int = 0) -> ScoreSums:
    return ScoreSums(n=n, sum=total, squares=squares, false_positive=false_positive, reference_empty=false_positive)


IMPOSSIBLE = {
    "a distance beyond any body": ("hd95", sums(1, 1e154, 1e308)),
    "a sum of no case": ("hd95", sums(0, 1e-3, 0.0)),
    "squares too small": ("dice", sums(1, 1e-3, 0.0)),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_scores_that_no_cases_can_have_are_refused(what: str) -> None:
    metric, score = IMPOSSIBLE[what]
    told = SplitScores(cases=1, metrics={metric: {"WT": score}})
    assert checks.judge_scores(Member(), {"validation": told}) is Reason.IMPLAUSIBLE_SCORES


def test_what_pools_with_nothing_is_left_out_of_the_mean_where_logic_2_had_taken_it() -> None:
    """An upgrade in mid-round: pooling these raised, and the experiment waited for its deadline."""
    run = in_phase(Phase.AGGREGATING)
    state = state_of(run)
    assert state.round is not None
    odd = SplitScores(cases=HUGE, metrics={"dice": {"WT": sums(HUGE, 1.0, 1.0)}})
    parts = state.round.parts
    for site in SITES:
        update = parts[site].update
        assert update is not None
        told = odd if site == "site-a" else scores(0.5)
        object.__setattr__(update, "validation", told)
    object.__setattr__(state.round, "evaluate", True)
    made = i.Aggregated(time=2000.0, round=1, seal="ab" * 32, digest="cd" * 32)
    with pytest.raises(ValidationError):
        decide(state, made, 2)
    (completed, *_) = decide(state, made)
    assert isinstance(completed, d.RoundCompleted)
    assert completed.validation is not None
    assert completed.validation.cases == 2


some_sums = st.builds(
    lambda n, mean, spread, fp, most: (n, mean * most, spread, fp),
    st.integers(0, HUGE),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 3),
    st.sampled_from([1.0, 1e-160, 1e3, 1e9, 1e150]),
)


@st.composite
def any_scores(draw: st.DrawFn) -> SplitScores | None:
    """Whatever the wire lets in."""
    metric = draw(st.sampled_from(["dice", "hd95"]))
    n, mean, spread, positive = draw(some_sums)
    total = n * mean
    squares = total * total / n * (1 + spread) if n else draw(st.sampled_from([0.0, 1e-7]))
    total += draw(st.sampled_from([0.0, 0.0, 1e-3, 1e-7]))
    squares *= draw(st.sampled_from([1.0, 1.0 - 1e-6, 1.0 - 4e-7]))
    empty = draw(st.integers(0, HUGE))
    try:
        score = ScoreSums(n=n, sum=total, squares=squares, false_positive=positive, reference_empty=positive + empty)
        return SplitScores(cases=draw(st.integers(n, HUGE)), metrics={metric: {"WT": score}})
    except ValidationError:
        return None


@settings(max_examples=400, deadline=None)
@any_of(st.lists(any_scores(), max_size=8))
def test_whatever_is_taken_pools_and_is_read_again(told: list[SplitScores | None]) -> None:
    taken = [one for one in told if one is not None and checks.judge_scores(Member(), {"test": one}) is None]
    pooled = pool_scores(taken)
    assert SplitScores.model_validate(pooled.model_dump()) == pooled


# updates against each other


def report_norms(run: Run, number: int, norms: dict[str, float], statistics: dict[str, float] | None = None) -> None:
    for site, norm in norms.items():
        run.wire(weights(number), site, number=number)
        more = (statistics or {}).get(site)
        run.put(i.UpdateStored(time=run.time, site=site, round=number, attempt=1, norm=norm, statistics=more))


def closed_with(run: Run) -> tuple[set[str], dict[str, Reason]]:
    (closed,) = [one for one in run.decided if isinstance(one, d.RoundClosed)]
    return set(closed.contributors), closed.left_out


def test_an_update_beyond_the_operators_factor_is_not_used_and_its_site_is_told() -> None:
    run = in_round(bounded(norm_factor=10.0))
    report_norms(run, 1, {"site-a": 1.0, "site-b": 1e30, "site-c": 2.0})
    assert closed_with(run) == ({"site-a", "site-c"}, {"site-b": Reason.OUTLYING_UPDATE})
    assert [one.sender for one in run.decided if isinstance(one, d.Refused)] == ["site-b"]


def test_so_is_one_whose_measured_statistics_are() -> None:
    run = in_round(bounded(norm_factor=10.0))
    report_norms(run, 1, dict.fromkeys(SITES, 1.0), {"site-a": 1.0, "site-b": 1.0, "site-c": 1e9})
    assert closed_with(run) == ({"site-a", "site-b"}, {"site-c": Reason.OUTLYING_UPDATE})


@pytest.mark.parametrize(
    ("bounds", "norms"),
    [
        ({}, {"site-a": 1.0, "site-b": 1e30, "site-c": 2.0}),
        ({"norm_factor": 10.0}, {"site-a": 1.0, "site-b": 9.0, "site-c": 2.0}),
        ({"norm_factor": 10.0}, {"site-a": 0.0, "site-b": 0.0, "site-c": 2.0}),
    ],
    ids=["no bound", "within it", "nobody else has trained"],
)
def test_an_update_within_what_the_operator_allows_is_used(bounds: dict[str, Any], norms: dict[str, float]) -> None:
    run = in_round(bounded(**bounds))
    report_norms(run, 1, norms)
    assert closed_with(run) == (set(SITES), {})


def test_of_two_updates_neither_is_left_out() -> None:
    run = in_round(bounded(norm_factor=2.0))
    run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), "site-c", number=1)
    report_norms(run, 1, {"site-a": 1.0, "site-b": 1e30})
    assert closed_with(run)[0] == {"site-a", "site-b"}


def test_where_too_few_are_left_the_round_waits_for_its_deadline_and_fails_under_a_code() -> None:
    run = Run.__new__(Run)
    run.state, run.time, run.decided, run.steps, run.told = None, 1000.0, [], [], {}
    start = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": 3}))
    given = received("experiment-start", start, "dr-a", 1000.0)
    run.put(given.model_copy(update={"bounds": Bounds(norm_factor=10.0)}))
    in_round(run)
    report_norms(run, 1, {"site-a": 1.0, "site-b": 1e30, "site-c": 2.0})
    assert state_of(run).phase is Phase.RUNNING
    for _ in range(3):
        run.fire(Timer.DEADLINE)
    assert (state_of(run).phase, state_of(run).reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)


@pytest.mark.parametrize("timer", [Timer.GRACE, Timer.DEADLINE])
def test_a_timer_that_closes_a_round_leaves_out_what_is_beyond_the_bound_and_fires_again(timer: Timer) -> None:
    run = Run.__new__(Run)
    run.state, run.time, run.decided, run.steps, run.told = None, 1000.0, [], [], {}
    sites = [*SITES, "site-d"]
    start = kinds.ExperimentStart(experiment=plain(sites=sites))
    given = received("experiment-start", start, "dr-a", 1000.0)
    run.put(given.model_copy(update={"bounds": Bounds(norm_factor=10.0), "admitted": tuple(sites)}))
    run.join(*sites)
    run.initial()
    report_norms(run, 1, {"site-a": 1.0, "site-b": 1e30, "site-c": 2.0})
    run.fire(timer)
    run.fire(timer)
    assert closed_with(run) == (
        {"site-a", "site-c"},
        {"site-b": Reason.OUTLYING_UPDATE, "site-d": Reason.ABSENT},
    )


# exclusion


def exclude(run: Run, site: str = "site-c", sender: str = "dr-a", attempt: int = 1) -> tuple[d.AnyDecision, ...]:
    body = kinds.ExperimentExclude(site=site, reason=Reason.WRONG_LABELS)
    return run.wire(body, sender, attempt=attempt)


@pytest.mark.parametrize(
    "phase", [Phase.RECRUITING, Phase.INITIALISING, Phase.RUNNING, Phase.AGGREGATING, Phase.EVALUATING, Phase.PAUSED]
)
def test_an_excluded_site_takes_no_part_any_more_in_whatever_phase_it_is_excluded(phase: Phase) -> None:
    run = in_phase(phase)
    exclude(run)
    assert state_of(run).members["site-c"].standing is Standing.EXCLUDED
    if phase is Phase.PAUSED:
        run.wire(kinds.ExperimentResume())
    if phase is Phase.RECRUITING:
        run.join("site-a", "site-b")
    if phase in (Phase.RECRUITING, Phase.INITIALISING):
        run.initial()
    first = state_of(run).completed + 1
    if phase is Phase.AGGREGATING:
        run.aggregated(1)
        first = 2
    for number in range(first, 3):
        for site in SITES[:2]:
            run.report(site, number)
        run.aggregated(number)
    for site in SITES[:2]:
        run.evaluated(site)
    assert state_of(run).phase is Phase.COMPLETE
    opened = [set(one.cases) for one in run.decided if isinstance(one, d.RoundStarted)]
    assert opened[-1] == ({"site-a", "site-b"} if phase is not Phase.EVALUATING else set(SITES))


def test_an_excluded_site_is_refused_whatever_it_says() -> None:
    run = in_phase(Phase.RUNNING)
    exclude(run)
    bodies: list[kinds.Body] = [
        kinds.Joined(cases=counts(10), platform=PLATFORM),
        kinds.Declined(reason=Reason.NOT_ALLOWED),
        kinds.Leaving(),
        kinds.RoundAccepted(),
        kinds.RoundFailed(reason=Reason.CUDA_OOM),
        weights(1),
    ]
    for body in bodies:
        assert refusals(run.wire(body, "site-c", number=1, attempt=9)) == [Reason.EXCLUDED], body
    assert state_of(run).members["site-c"].standing is Standing.EXCLUDED


def test_its_pending_update_is_not_used_and_quorum_counts_without_it() -> None:
    run = Run(quorum={"least_sites": 2, "least_case_share": 0.9})
    for site, cases in zip(SITES, (10, 10, 10**9 - 2), strict=True):
        run.wire(kinds.Joined(cases=counts(cases), platform=PLATFORM), site)
    run.initial()
    for site in ("site-a", "site-b"):
        run.report(site, 1)
    run.wire(weights(1), "site-c", number=1)
    assert state_of(run).phase is Phase.RUNNING, "its cases made the share unreachable"
    told = exclude(run)
    assert state_of(run).phase is Phase.AGGREGATING
    assert [(one.sender, one.reason) for one in told if isinstance(one, d.Refused)] == [("site-c", Reason.EXCLUDED)]
    assert {one.sender for one in told if isinstance(one, d.Settled)} == {"dr-a", "site-c"}
    run.put(i.UpdateStored(time=run.time, site="site-c", round=1, attempt=1))
    assert closed_with(run) == ({"site-a", "site-b"}, {"site-c": Reason.EXCLUDED})


def test_what_it_has_reported_is_taken_out_of_the_open_step() -> None:
    run = in_phase(Phase.RUNNING)
    run.report("site-c", 1)
    exclude(run)
    for site in ("site-a", "site-b"):
        run.report(site, 1)
    assert closed_with(run) == ({"site-a", "site-b"}, {"site-c": Reason.EXCLUDED})


def test_its_scores_are_in_no_result() -> None:
    run = in_phase(Phase.EVALUATING)
    run.evaluated("site-c")
    exclude(run)
    for site in SITES[:2]:
        run.evaluated(site)
    outcome = state_of(run).outcome
    assert outcome is not None
    assert outcome.test is not None
    assert outcome.test.cases == 2


def test_a_round_that_is_closed_stands() -> None:
    run = in_phase(Phase.AGGREGATING)
    exclude(run)
    run.aggregated(1)
    (made,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert set(made.contributors) == set(SITES)


def test_only_its_researcher_excludes_a_site_and_only_one_that_is_invited() -> None:
    run = in_phase(Phase.RUNNING)
    assert refusals(exclude(run, sender="dr-b")) == [Reason.NOT_THE_OWNER]
    assert refusals(exclude(run, "site-x", attempt=2)) == [Reason.NOT_INVITED]
    exclude(run, attempt=3)
    assert not [one for one in exclude(run, attempt=4) if not isinstance(one, d.Settled)], "twice is no news"


@pytest.mark.parametrize("phase", [Phase.RECRUITING, Phase.RUNNING, Phase.EVALUATING])
def test_nobody_is_excluded_where_too_few_would_be_left(phase: Phase) -> None:
    run = in_phase(phase)
    exclude(run)
    assert refusals(exclude(run, "site-b", attempt=2)) == [Reason.QUORUM_NOT_MET]


def test_all_are_told_of_it_where_all_know_the_word_and_the_site_alone_where_not() -> None:
    run = in_phase(Phase.RUNNING)
    before = state_of(run)
    exclude(run)
    (told,) = [one for one in run.decided if isinstance(one, d.Excluded)]
    said = [one.what for one in e.effects(state_of(run), told) if isinstance(one, e.Announce)]
    assert [one.kind for one in said] == ["site-excluded"]
    assert any(one == e.Announce(said[0]) for one in e.pending_effects(state_of(run))), "told again after a restart"
    oldest = before.members["site-a"]
    object.__setattr__(oldest, "abilities", frozenset())
    object.__setattr__(state_of(run).members["site-a"], "abilities", frozenset())
    (alone,) = [one for one in e.effects(state_of(run), told) if isinstance(one, e.Announce | e.Tell)]
    assert isinstance(alone, e.Tell)
    assert (alone.party, alone.kind, alone.reason) == ("site-c", "joined", Reason.EXCLUDED)


def test_a_visit_whose_site_is_excluded_goes_to_the_next_one() -> None:
    run = Run(
        plan={"kind": "sequential"},
        rounds={"count": 3, "enrol_within": 100.0, "train_within": 1000.0},
        quorum={"least_sites": 1},
    )
    in_round(run)
    visited = state_of(run).round
    assert visited is not None
    (site,) = visited.parts
    exclude(run, site)
    following = state_of(run).round
    assert following is not None
    assert set(following.parts) == ({*SITES} - {site}) & set(following.parts)
    assert len(following.parts) == 1
    assert (following.number, following.opening) == (1, 2)


# nothing waits for what was set aside


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.EVALUATING, Phase.AGGREGATING, Phase.RECRUITING, Phase.PAUSED])
def test_where_even_its_failure_cannot_be_handled_the_experiment_fails_under_a_code(phase: Phase) -> None:
    run = in_phase(phase)
    run.put(i.HandlingFailed(time=run.time, kind="handling-failed"))
    assert (state_of(run).phase, state_of(run).reason) == (Phase.FAILED, Reason.AGGREGATION_FAILED)


def test_a_word_of_a_site_that_declines_and_cannot_be_handled_counts_as_declined() -> None:
    run = in_phase(Phase.RUNNING)
    run.put(i.HandlingFailed(time=run.time, kind="declined", site="site-c"))
    round_ = state_of(run).round
    assert round_ is not None
    assert state_of(run).members["site-c"].standing is Standing.DECLINED
    for site in SITES[:2]:
        run.report(site, 1)
    assert state_of(run).phase is Phase.AGGREGATING
