"""The step STATISTICS in the coordinator's core: who is asked, what is refused, what follows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import PLATFORM, SITES, counts, received
from hypothesis import given
from hypothesis import strategies as st
from machine_run import BODIES, FINGERPRINT, Run, measuring

from coordinator.core import announce
from coordinator.core import decisions as d
from coordinator.core import effects as e
from coordinator.core.effects import effects, pending_effects
from coordinator.core.evolve import fold_decisions
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState, Phase, Standing, Timer
from messages import kinds
from messages.reasons import Reason
from messages.statistics.fingerprint import DataFingerprint
from messages.statistics.histograms import Histogram


def state_of(run: Run) -> ExperimentState:
    assert run.state is not None
    return run.state


def tell(run: Run, site: str, **changes: Any) -> tuple[d.AnyDecision, ...]:
    return run.wire(kinds.StatisticsReady(statistics=FINGERPRINT.model_copy(update=changes)), site)


def all_tell(**changes: Any) -> Run:
    run = measuring(**changes)
    for site in SITES:
        tell(run, site)
    return run


def test_statistics_are_asked_for_before_any_net_is_built() -> None:
    run = measuring()
    state = state_of(run)
    assert (state.phase, state.round and state.round.step, state.round and state.round.number) == (
        Phase.RUNNING,
        "statistics",
        0,
    )
    assert not any(isinstance(one, e.Initialise) for one in pending_effects(state))
    assert announce.round_opened(state).kind == "statistics-start"


def test_the_experiment_goes_on_with_what_was_planned_and_its_file_stays() -> None:
    run = all_tell()
    state = state_of(run)
    assert state.phase is Phase.INITIALISING
    assert state.experiment.net.name == "DynUNet"
    assert state.file["net"]["name"] == "auto"
    (made,) = [one for one in run.decided if isinstance(one, d.StatisticsPooled)]
    told = effects(state, made)
    assert [type(one) for one in told] == [e.Announce, e.Initialise]
    assert any(isinstance(one, e.Initialise) for one in pending_effects(state)), "a restart builds it as well"
    run.initial()
    (start,) = [one for one in announce.current_announcements(state_of(run)) if one.kind == "round-start"]
    assert (start.round, start.attempt) == (1, 1)
    assert [one.kind for one in announce.current_announcements(state_of(run))][:2] == [
        "experiment-accepted",
        "statistics-pooled",
    ]


def test_statistics_alone_end_the_experiment() -> None:
    run = all_tell(plan={"kind": "statistics"}, rounds={"count": 0})
    state = state_of(run)
    assert state.phase is Phase.COMPLETE
    assert not any(isinstance(one, e.PublishModel) for one in pending_effects(state))
    (end,) = announce.current_announcements(state)
    assert end.kind == "statistics-pooled"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cases": 11}, Reason.TOO_MANY_CASES),
        ({"kept": Histogram(bins=(0,), counts=(31,))}, Reason.TOO_MANY_CASES),
        ({"intensities": {"T1": Histogram(bins=(9,), counts=(310_000,))}}, Reason.TOO_MANY_CASES),
        ({"intensities": {"Mrs Smith": Histogram()}}, Reason.MALFORMED),
    ],
)
def test_what_a_site_cannot_have_measured_is_refused_and_nobody_waits_for_it(
    changes: dict[str, Any], reason: Reason
) -> None:
    run = measuring()
    assert d.SiteFailed(site="site-a", reason=reason) in tell(run, "site-a", **changes)
    tell(run, "site-b")
    tell(run, "site-c")
    (made,) = [one for one in run.decided if isinstance(one, d.StatisticsPooled)]
    assert made.left_out == {"site-a": reason}
    assert made.statistics.cases == 20


def test_the_least_memory_that_a_site_declares_counts() -> None:
    run = measuring()
    for site, memory in zip(SITES, (8192, None, 4096), strict=True):
        run.wire(kinds.StatisticsReady(statistics=FINGERPRINT, memory_mib=memory), site)
    measured = state_of(run).measured
    assert measured is not None
    assert measured.configuration is not None
    assert (measured.memory_mib, measured.configuration.memory_mib) == (4096, 4096)


def test_the_order_in_which_sites_tell_counts_for_nothing() -> None:
    runs = [measuring(), measuring()]
    for run, order in zip(runs, (SITES, SITES[::-1]), strict=True):
        for site in order:
            tell(run, site, kept=Histogram(bins=(SITES.index(site),), counts=(10,)))
    assert state_of(runs[0]).measured == state_of(runs[1]).measured


def test_an_experiment_whose_sites_withhold_everything_fails_with_a_code() -> None:
    run = measuring()
    for site in SITES:
        run.wire(kinds.StatisticsReady(statistics=DataFingerprint(cases=10)), site)
    state = state_of(run)
    assert (state.phase, state.reason) == (Phase.FAILED, Reason.NO_CONFIGURATION)


def test_too_few_statistics_by_the_last_deadline_fail_the_experiment() -> None:
    run = measuring()
    tell(run, "site-a")
    for site in ("site-b", "site-c"):
        run.wire(kinds.RoundFailed(reason=Reason.PRIVACY_BELOW_FLOOR), site)
    for _ in range(3):
        run.fire(Timer.DEADLINE)
    state = state_of(run)
    assert (state.phase, state.reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)


def test_a_site_that_could_not_read_the_words_is_not_asked() -> None:
    run = Run(net={"name": "auto"})
    said = received("joined", BODIES["joined"], "site-a", run.time)
    said.__dict__["event"] = replace(said.event, ext={"can-words-5": 1})
    decided = decide(run.state, said)
    assert [one.reason for one in decided if isinstance(one, d.Refused)] == [Reason.UNKNOWN_FIELD]
    assert state_of(run).members["site-a"].standing is Standing.INVITED


def many(run: Run, site: str, train: int) -> None:
    """A site joins again, and claims more cases."""
    run.wire(kinds.Joined(cases=counts(train), platform=PLATFORM), site)


def claiming(train: int, others: int = 10, **changes: Any) -> Run:
    """Site-a claims so many cases; statistics are asked for once all have joined."""
    run = Run(**{"net": {"name": "auto"}, **changes})
    many(run, "site-a", train)
    for site in ("site-b", "site-c"):
        many(run, site, others)
    return run


def made_of(run: Run) -> d.StatisticsPooled:
    (made,) = [one for one in run.decided if isinstance(one, d.StatisticsPooled)]
    return made


WIDE = Histogram(bins=tuple(range(-8192, 0)), counts=(1,) * 8192)


def test_a_site_whose_bins_do_not_pool_with_the_others_is_left_out_and_named() -> None:
    run = claiming(5000, 5000)
    tell(run, "site-a", cases=5000, kept=WIDE)
    tell(run, "site-b", cases=5000)
    tell(run, "site-c", cases=5000)
    assert made_of(run).left_out == {"site-a": Reason.MALFORMED}
    assert made_of(run).statistics.cases == 10_000
    last, _decided = run.steps[-1]
    before = fold_decisions(None, [one for _given, those in run.steps[:-1] for one in those])
    assert d.Failed(time=run.time, reason=Reason.NO_CONFIGURATION) in decide(before, last, logic=5)


def test_a_site_that_breaks_the_pool_is_named_also_where_too_few_are_left() -> None:
    run = claiming(5000, 5000, quorum={"least_sites": "all"})
    tell(run, "site-a", cases=5000, kept=WIDE)
    tell(run, "site-b", cases=5000)
    tell(run, "site-c", cases=5000)
    state = state_of(run)
    assert (state.phase, state.reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)
    assert d.SiteFailed(site="site-a", reason=Reason.MALFORMED) in run.decided


@pytest.mark.parametrize(("cases", "most"), [(10**6, 10**6), (19, 57)])
def test_a_site_that_claims_more_cases_than_all_others_owns_no_median(cases: int, most: int) -> None:
    calm, run = claiming(10), claiming(cases)
    for one in (calm, run):
        tell(one, "site-b")
        tell(one, "site-c")
    tell(calm, "site-a")
    cube = (Histogram(bins=(600,), counts=(most,)),) * 3
    spacing = (Histogram(bins=(-100,), counts=(most,)),) * 3
    tell(run, "site-a", cases=cases, spacing=spacing, shape=cube, cropped=cube, extent=cube)
    assert not [one for one in run.decided if isinstance(one, d.Failed | d.Refused | d.SiteFailed)]
    made, honest = made_of(run).configuration, made_of(calm).configuration
    assert made is not None
    assert honest is not None
    assert made.spacing_mm == honest.spacing_mm
    assert made.median_shape == honest.median_shape
    assert made_of(run).contributors == {"site-a": cases * 19 // most, "site-b": 10, "site-c": 10}


def test_a_site_without_which_a_configuration_follows_is_left_out() -> None:
    run = measuring()
    for site, memory in zip(SITES, (1, None, 4096), strict=True):
        run.wire(kinds.StatisticsReady(statistics=FINGERPRINT, memory_mib=memory), site)
    assert made_of(run).left_out == {"site-a": Reason.NO_CONFIGURATION}
    assert made_of(run).configuration is not None
    last, _decided = run.steps[-1]
    before = fold_decisions(None, [one for _given, those in run.steps[:-1] for one in those])
    assert d.Failed(time=run.time, reason=Reason.NO_CONFIGURATION) in decide(before, last, logic=5)


COUNTED = st.dictionaries(st.integers(-50, 50), st.integers(1, 1000), min_size=1)


@given(
    st.dictionaries(st.integers(-50, 50), st.integers(1, 1000), min_size=1),
    st.integers(0, 10**9),
    st.integers(1, 10**9),
)
def test_a_thinned_histogram_keeps_its_total_and_its_percentiles(counted: dict[int, int], kept: int, of: int) -> None:
    kept = min(kept, of)
    whole = Histogram.of_counts(counted)
    thin = whole.thin(kept, of)
    assert thin.total == whole.total * kept // of
    below = whole_below = 0
    for number, count in zip(whole.bins, whole.counts, strict=True):
        whole_below += count
        below += dict(zip(thin.bins, thin.counts, strict=True)).get(number, 0)
        assert below == whole_below * kept // of
