"""The sequential plan: who is visited when, who is skipped, and when a round waits."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import MANIFEST, PLATFORM, SITES, counts, plain, weights
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from machine_run import BODIES, SEAL, Run

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.announce import round_opened
from coordinator.core.effects import Aggregate, effects
from coordinator.core.machine import TABLE
from coordinator.core.state import ENDED, Phase, Timer
from messages import kinds
from messages.experiment import Experiment
from messages.reasons import Reason

ROUNDS = {"count": 6, "enrol_within": 100.0, "train_within": 1000.0, "extensions": 1}


def sequential(order: str = "listed", cases: tuple[int, ...] = (10, 10, 10), **changes: Any) -> Run:
    """All sites have joined, and round 1 is open."""
    run = Run(plan={"kind": "sequential", "order": order}, **{"rounds": ROUNDS, **changes})
    for site, train in zip(SITES, cases, strict=True):
        run.wire(kinds.Joined(cases=counts(train), platform=PLATFORM), site)
    run.initial()
    return run


def visited(run: Run) -> str:
    """The one site that the open round is for."""
    assert run.state is not None
    assert run.state.round is not None
    (site,) = run.state.round.parts
    return site


def deliver(run: Run) -> str:
    """The site's update comes, and the round is over; returns who it was."""
    site = visited(run)
    assert run.state is not None
    assert run.state.round is not None
    number = run.state.round.number
    run.report(site, number, attempt=1)
    run.aggregated(number)
    return site


def last_closed(run: Run) -> d.RoundClosed:
    return [one for one in run.decided if isinstance(one, d.RoundClosed)][-1]


def test_one_site_after_the_other_is_visited_as_the_file_names_them_and_all_evaluate_at_the_end() -> None:
    run = sequential()
    assert [deliver(run) for _ in range(6)] == [*SITES, *SITES]
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    assert run.state.round is not None
    assert tuple(run.state.round.parts) == SITES
    for site in SITES:
        run.evaluated(site)
    assert run.state.phase is Phase.COMPLETE


def test_each_round_names_its_one_site_and_leaves_out_nobody_who_was_not_due() -> None:
    run = sequential()
    for _ in range(3):
        site = deliver(run)
        closed = last_closed(run)
        assert (list(closed.contributors), closed.left_out) == ([site], {})


def test_sites_are_visited_by_size_with_the_largest_last() -> None:
    run = sequential("size", (30, 10, 20))
    assert [deliver(run) for _ in range(4)] == ["site-b", "site-c", "site-a", "site-b"]


def test_the_seed_says_the_order_and_every_cycle_has_the_same() -> None:
    orders = {}
    for seed in range(8):
        visits = [deliver(run) for run in [sequential("seeded", seed=seed)] for _ in range(6)]
        assert sorted(visits[:3]) == list(SITES)
        assert visits[:3] == visits[3:]
        orders[tuple(visits[:3])] = seed
    assert len(orders) > 1


def test_the_next_model_is_made_of_the_one_update_alone() -> None:
    run = sequential()
    run.report("site-a", 1)
    made = [effect for one in run.decided for effect in effects(run.state, one) if isinstance(effect, Aggregate)]
    assert [[one.site for one in effect.updates] for effect in made] == [["site-a"]]


def test_a_site_that_fails_is_skipped_and_visited_at_the_end_of_the_cycle() -> None:
    run = sequential()
    run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), "site-a", number=1)
    assert visited(run) == "site-b"
    assert deliver(run) == "site-b"
    assert last_closed(run).left_out == {"site-a": Reason.CUDA_OOM}
    assert [deliver(run) for _ in range(5)] == ["site-c", "site-a", "site-b", "site-c", "site-a"]


def test_a_round_that_goes_on_with_another_site_is_announced_as_a_later_event_of_the_same_round() -> None:
    run = sequential()
    assert run.state is not None
    first = round_opened(run.state)
    run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), "site-a", number=1)
    later = round_opened(run.state)
    assert (first.kind, first.round, first.attempt) == ("round-start", 1, 1)
    assert (later.kind, later.round, later.attempt) == ("round-start", 1, 2)
    assert isinstance(later.body, kinds.RoundStart)
    assert later.body.sites == ["site-b"]


def test_a_site_that_keeps_silent_is_skipped_and_its_late_update_is_refused() -> None:
    run = sequential()
    for _ in range(3):
        run.fire(Timer.ACCEPT)
    assert visited(run) == "site-b"
    refused = [one for one in run.wire(weights(1), "site-a", number=1) if isinstance(one, d.Refused)]
    assert [one.reason for one in refused] == [Reason.LATE]
    deliver(run)
    assert last_closed(run).left_out == {"site-a": Reason.ABSENT}


def test_a_site_that_left_is_passed_over_until_it_is_back() -> None:
    run = sequential()
    run.wire(kinds.Leaving(), "site-a")
    assert [deliver(run) for _ in range(3)] == ["site-b", "site-c", "site-b"]
    run.wire(BODIES["joined"], "site-a")
    assert [deliver(run) for _ in range(3)] == ["site-c", "site-a", "site-b"]


def test_a_straggler_is_passed_over_at_its_deadline_and_told() -> None:
    run = sequential()
    run.wire(kinds.RoundAccepted(), "site-a", number=1)
    run.wire(weights(1), "site-a", number=1)  # its chunks never arrive
    told = run.fire(Timer.DEADLINE)
    assert visited(run) == "site-b"
    assert [one.reason for one in told if isinstance(one, d.Refused)] == [Reason.LATE]
    assert any(isinstance(one, d.Settled) and one.sender == "site-a" for one in told)
    deliver(run)
    assert last_closed(run).left_out == {"site-a": Reason.STRAGGLER}


def fail_all(run: Run) -> None:
    for site in SITES:
        assert run.state is not None
        assert run.state.round is not None
        opening = run.state.round.opening
        run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), site, number=1, attempt=f"cuda-oom.{opening}")


def test_once_each_site_was_tried_the_round_waits_for_its_deadline_and_then_tries_all_again() -> None:
    run = sequential()
    fail_all(run)
    assert run.state is not None
    assert visited(run) == "site-c"
    run.fire(Timer.DEADLINE)
    assert visited(run) == "site-a"
    assert run.state.round is not None
    assert run.state.round.extensions == 1
    assert deliver(run) == "site-a"
    assert last_closed(run).left_out == {}


def test_without_any_site_the_experiment_fails_after_the_last_extension() -> None:
    run = sequential()
    fail_all(run)
    run.fire(Timer.DEADLINE)
    fail_all(run)
    run.fire(Timer.DEADLINE)
    assert run.state is not None
    assert (run.state.phase, run.state.reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)


def test_the_last_site_there_is_gets_the_extension_while_it_works() -> None:
    run = sequential()
    for site in ("site-b", "site-c"):
        run.wire(kinds.Declined(reason=Reason.DATASET_GONE), site)
    run.wire(kinds.RoundAccepted(), "site-a", number=1)
    run.fire(Timer.DEADLINE)
    assert run.state is not None
    assert run.state.round is not None
    assert (visited(run), run.state.round.opening, run.state.round.extensions) == ("site-a", 1, 1)


def test_a_site_that_joins_late_is_visited_in_the_running_cycle() -> None:
    run = Run(plan={"kind": "sequential"}, rounds=ROUNDS)
    run.join("site-a", "site-c")
    run.fire(Timer.ENROL)
    run.initial()
    assert deliver(run) == "site-a"
    run.join("site-b")
    # The round of site-c had opened before.
    assert [deliver(run) for _ in range(4)] == ["site-c", "site-b", "site-c", "site-a"]


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        ({"kind": "aggregation", "order": "size"}, "sequential"),
        ({"kind": "sequential", "weight_by": "equal"}, "aggregation"),
        ({"kind": "sequential", "order": "largest"}, "listed"),
    ],
)
def test_keys_of_another_plan_are_a_mistake_in_the_file(plan: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Experiment.model_validate(plain(plan=plan))


def test_a_file_of_0_1_says_nothing_of_the_order() -> None:
    assert "order" not in Experiment.model_validate(plain()).as_plain()["plan"]


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["failed", "accepted", "helped", "leaving", "joined", "declined"]), st.sampled_from(SITES)
    ),
    st.tuples(st.just("timer"), st.sampled_from([Timer.ACCEPT, Timer.DEADLINE, Timer.GRACE])),
    st.tuples(st.sampled_from(["aggregated", "outage", "pause", "resume"]), st.none()),
)


@settings(max_examples=200, deadline=None)
@any_of(steps=st.lists(STEPS, max_size=60))
def test_in_any_order_of_events_one_site_is_visited_at_a_time_and_a_cycle_visits_none_twice(
    steps: list[tuple[str, Any]],
) -> None:
    run = sequential()
    for what, which in steps:
        state = run.state
        assert state is not None
        if state.phase in ENDED:
            return
        number = state.round.number if state.round is not None else state.completed
        if what == "failed":
            run.wire(kinds.RoundFailed(reason=Reason.NAN_LOSS), which, number=number)
        elif what == "accepted":
            run.wire(kinds.RoundAccepted(), which, number=number)
        elif what == "helped":
            run.wire(weights(number), which, number=number)
            own(run, i.UpdateStored(time=run.time, site=which, round=number, attempt=1))
        elif what == "timer":
            run.time += 500
            own(run, i.TimerFired(time=run.time, timer=which))
        elif what == "aggregated":
            own(run, i.Aggregated(time=run.time, round=number, seal=f"{number:064d}", digest=SEAL))
        elif what == "outage":
            own(run, i.Outage(time=run.time + 5, since=run.time))
        elif what in ("pause", "resume"):
            run.wire(kinds.ExperimentPause() if what == "pause" else kinds.ExperimentResume())
        else:
            run.wire(BODIES[what], which)
        after = run.state
        assert after is not None
        if after.round is not None and after.round.step == "updates":
            assert len(after.round.parts) == 1
            assert not set(after.round.parts) & set(after.round.left_out)
        assert len(set(after.turns)) == len(after.turns)
    closed = [one for one in run.decided if isinstance(one, d.RoundClosed)]
    assert all(len(one.contributors) == 1 for one in closed)
    assert all(not set(one.contributors) & set(one.left_out) for one in closed)


def own(run: Run, given: i.AnyInput) -> None:
    """Own inputs come only where the table has them."""
    assert run.state is not None
    if (run.state.stage, i.kind_of(given)) in TABLE:
        run.put(given)


def test_the_initial_model_is_what_the_first_site_receives() -> None:
    run = sequential()
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.RoundStart)
    assert (body.transfer.seal, body.transfer.manifest) == (SEAL, MANIFEST)
