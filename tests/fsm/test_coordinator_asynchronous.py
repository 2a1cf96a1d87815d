"""The asynchronous plan: whose updates make the next model, what goes on, and what is too stale."""

from __future__ import annotations

import math
from typing import Any

import pytest
from coordinator_kit import SITES, scores, weights
from machine_run import BODIES, SEAL, Run

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.announce import round_opened
from coordinator.core.effects import Aggregate, Expect, Forget, Listen, Prune, SendModel, effects, pending_effects
from coordinator.core.evolve import fold_decisions
from coordinator.core.machine import decide
from coordinator.core.state import Phase, Timer
from messages import kinds
from messages.abilities import OURS, WORDS_6
from messages.envelope import Author
from messages.reasons import Reason

ROUNDS = {"count": 5, "enrol_within": 100.0, "train_within": 1000.0, "extensions": 0}
PLAN = {"kind": "asynchronous", "buffer": 2}


class Buffered(Run):
    """Three sites have joined, and round 1 is open: each trains the initial model."""

    def __init__(self, plan: dict[str, Any] | None = None, accept: bool = True, **changes: Any) -> None:
        file = {"plan": PLAN | (plan or {}), "rounds": ROUNDS, "evaluation": {"select_by": "last"}}
        super().__init__(**{**file, **changes})
        self.join()
        self.initial()
        if accept:
            self.accept(1, *SITES)

    def accept(self, number: int, *sites: str) -> None:
        for site in sites:
            self.wire(kinds.RoundAccepted(), site, number=number)

    @property
    def opened(self) -> kinds.RoundStart:
        assert self.state is not None
        body = round_opened(self.state).body
        assert isinstance(body, kinds.RoundStart)
        return body

    def last(self, kind: type[Any]) -> Any:
        return [one for one in self.decided if isinstance(one, kind)][-1]

    def made(self) -> Aggregate:
        """What the last closed round has made."""
        assert self.state is not None
        (found,) = [one for one in pending_effects(self.state) if isinstance(one, Aggregate)]
        return found

    def close(self, number: int, **reports: int) -> None:
        """Sites report their work for the named rounds, and the round that closes makes its model."""
        for name, base in reports.items():
            self.report(name.replace("_", "-"), base)
        self.aggregated(number)


def refused(decided: tuple[d.AnyDecision, ...]) -> list[Reason]:
    return [one.reason for one in decided if isinstance(one, d.Refused)]


def test_a_round_closes_at_once_with_the_first_updates_that_fill_the_buffer() -> None:
    run = Buffered()
    run.report("site-c", 1)
    assert run.state is not None
    assert run.state.phase is Phase.RUNNING
    run.report("site-a", 1)
    assert run.state.phase is Phase.AGGREGATING
    closed = run.last(d.RoundClosed)
    assert (closed.contributors, closed.left_out) == ({"site-a": 10, "site-c": 10}, {})
    assert not [one for one in run.decided if isinstance(one, d.QuorumMet)]


def test_who_is_not_in_the_buffer_goes_on_and_comes_into_the_next_one_with_its_staleness() -> None:
    run = Buffered()
    run.close(1, site_a=1, site_c=1)
    assert (run.opened.sites, run.opened.going_on) == ([*SITES], {"site-b": 1})
    run.accept(2, "site-a", "site-c")
    run.report("site-b", 1)
    run.report("site-a", 2)
    made = run.made()
    assert [(one.site, one.model, one.discount) for one in made.updates] == [
        ("site-a", None, 1.0),
        ("site-b", SEAL, 1 / math.sqrt(2)),
    ]
    assert made.master == f"{1:064d}"
    run.aggregated(2)
    assert run.last(d.RoundCompleted).staleness == {"site-b": 1}
    assert run.opened.going_on == {"site-c": 2}


@pytest.mark.parametrize(("rule", "discount"), [("sqrt", 1 / math.sqrt(3)), ("linear", 1 / 3), ("none", 1.0)])
def test_an_update_counts_the_less_the_more_models_were_made_since_it_began(rule: str, discount: float) -> None:
    run = Buffered({"staleness": rule})
    run.close(1, site_a=1, site_c=1)
    run.accept(2, "site-a", "site-c")
    run.close(2, site_a=2, site_c=2)
    run.accept(3, "site-a", "site-c")
    run.report("site-b", 1)
    run.report("site-a", 3)
    assert [one.discount for one in run.made().updates] == [1.0, discount]


def test_an_update_that_began_too_many_models_ago_is_refused_and_its_site_begins_anew() -> None:
    run = Buffered({"max_staleness": 1})
    run.close(1, site_a=1, site_c=1)
    run.accept(2, "site-a", "site-c")
    run.close(2, site_a=2, site_c=2)
    assert run.last(d.RoundClosed).left_out == {"site-b": Reason.TOO_STALE}
    assert run.opened.going_on is None
    assert refused(run.wire(weights(1), "site-b", number=1)) == [Reason.TOO_STALE]
    run.accept(3, "site-b")
    run.report("site-b", 3)
    assert run.state is not None
    assert run.state.round is not None
    assert run.state.round.reported == ("site-b",)


def test_an_update_that_gets_too_stale_on_its_way_has_its_receipt_and_is_not_used() -> None:
    run = Buffered({"max_staleness": 0})
    run.wire(weights(1), "site-b", number=1)  # announced; its chunks are on their way
    run.report("site-a", 1)
    run.report("site-c", 1)
    told = run.steps[-1][1]
    assert [one.site for one in told if isinstance(one, d.UpdateLeftOut)] == ["site-b"]
    assert refused(told) == [Reason.TOO_STALE]
    assert "site-b" in [one.sender for one in told if isinstance(one, d.Settled)]
    assert run.put(i.UpdateStored(time=run.time, site="site-b", round=1, attempt=1)) == ()


def test_updates_that_come_while_a_model_is_made_wait_in_the_next_buffer_in_the_order_of_their_coming() -> None:
    run = Buffered({"buffer": 1})
    run.report("site-c", 1)
    assert run.state is not None
    run.report("site-b", 1)
    run.report("site-a", 1)
    assert run.state.phase is Phase.AGGREGATING
    run.aggregated(1)  # the next round opens with two updates, and closes with the one that came first
    assert run.last(d.RoundClosed).contributors == {"site-b": 10}
    run.aggregated(2)
    assert run.last(d.RoundClosed).contributors == {"site-a": 10}
    assert run.last(d.RoundStarted).going_on == {"site-a": 1}
    run.aggregated(3)
    assert run.last(d.RoundCompleted).staleness == {"site-a": 2}
    assert (run.state.phase, run.opened.going_on) == (Phase.RUNNING, None)


def test_a_site_is_in_a_buffer_once() -> None:
    run = Buffered()
    run.report("site-a", 1)
    assert refused(run.wire(weights(1, 2), "site-a", number=1)) == [Reason.DUPLICATE]


def test_chunks_and_blobs_of_every_model_that_a_site_works_with_are_kept() -> None:
    run = Buffered(keep_updates="none")
    run.close(1, site_a=1, site_c=1)
    assert run.state is not None
    effects_ = [one for decision in run.steps[-1][1] for one in effects(run.state, decision)]
    (listen,) = [one for one in effects_ if isinstance(one, Listen)]
    assert (listen.round, listen.oldest, listen.sites) == (2, 1, frozenset(SITES))
    (prune,) = [one for one in effects_ if isinstance(one, Prune)]
    assert {SEAL, f"{1:064d}"} <= prune.keep
    assert not [one for one in effects_ if isinstance(one, Forget)]
    assert [one.transfer.round for one in effects_ if isinstance(one, SendModel)] == [2]
    run.wire(weights(1), "site-b", number=1)
    (expect,) = [one for one in pending_effects(run.state) if isinstance(one, Expect)]
    assert (expect.round, expect.model) == (1, SEAL)


def test_an_update_that_comes_while_a_model_is_made_is_expected_again_after_a_restart() -> None:
    run = Buffered()
    run.report("site-a", 1)
    run.report("site-c", 1)
    run.wire(weights(1), "site-b", number=1)
    assert run.state is not None
    todo = pending_effects(run.state)
    assert [one.site for one in todo if isinstance(one, Expect)] == ["site-b"]
    assert len([one for one in todo if isinstance(one, Aggregate | Listen)]) == 2


def test_what_comes_in_a_pause_is_taken_and_the_next_round_waits_for_its_end() -> None:
    run = Buffered()
    run.report("site-a", 1)
    run.report("site-c", 1)
    run.wire(kinds.ExperimentPause())
    run.aggregated(1)
    run.report("site-b", 1)
    assert run.state is not None
    assert (run.state.completed, run.state.phase) == (1, Phase.PAUSED)
    assert not [one for one in pending_effects(run.state) if isinstance(one, Aggregate)]
    assert run.put(i.Aggregated(time=run.time, round=1, seal="0" * 64, digest="0" * 64)) == ()
    run.wire(kinds.ExperimentResume())
    assert (run.state.phase, run.opened.going_on) == (Phase.RUNNING, {"site-b": 1})
    run.accept(2, "site-a")
    run.report("site-a", 2)
    assert run.last(d.RoundClosed).contributors == {"site-a": 10, "site-b": 10}


def test_a_site_that_lost_its_work_begins_anew_with_the_open_round() -> None:
    run = Buffered()
    run.wire(weights(1), "site-b", number=1)
    run.close(1, site_a=1, site_c=1)
    decided = run.wire(kinds.RoundAccepted(), "site-b", number=2)
    assert refused(decided) == [Reason.OLDER_ATTEMPT]
    assert d.SiteAccepted(site="site-b", anew=True) in decided
    assert run.opened.going_on == {"site-b": 1}  # what was said once stands
    assert refused(run.wire(weights(1, 2), "site-b", number=1)) == [Reason.LATE]
    run.report("site-b", 2)
    run.accept(2, "site-a")
    run.report("site-a", 2)
    assert {one.site: one.discount for one in run.made().updates} == {"site-a": 1.0, "site-b": 1.0}


def test_who_failed_or_never_accepted_gets_the_newest_model() -> None:
    run = Buffered(accept=False)
    run.accept(1, "site-b")
    run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), "site-b", number=1)
    run.close(1, site_a=1, site_c=1)
    assert run.last(d.RoundClosed).left_out == {"site-b": Reason.CUDA_OOM}
    assert run.opened.going_on is None
    run.accept(2, "site-a", "site-c")
    for _ in range(3):
        run.fire(Timer.ACCEPT)
    run.close(2, site_a=2, site_c=2)
    assert run.last(d.RoundClosed).left_out == {"site-b": Reason.ABSENT}
    assert run.opened.going_on is None


def test_a_site_that_leaves_in_mid_work_goes_on_when_it_is_back() -> None:
    run = Buffered()
    run.wire(kinds.Leaving(), "site-b")
    run.close(1, site_a=1, site_c=1)
    assert run.last(d.RoundClosed).left_out == {}
    assert run.opened.going_on == {"site-b": 1}
    run.report("site-b", 1)
    assert run.state is not None
    assert run.state.round is not None
    assert run.state.round.reported == ("site-b",)


def test_an_excluded_sites_update_is_in_no_buffer() -> None:
    run = Buffered({"buffer": 2}, quorum={"least_sites": 2})
    run.report("site-b", 1)
    run.wire(kinds.ExperimentExclude(site="site-b", reason=Reason.WRONG_LABELS))
    run.report("site-a", 1)
    run.report("site-c", 1)
    assert run.last(d.RoundClosed).contributors == {"site-a": 10, "site-c": 10}


def test_a_site_that_is_excluded_while_a_model_is_made_goes_on_with_nothing() -> None:
    run = Buffered({"buffer": 2}, quorum={"least_sites": 2})
    run.report("site-a", 1)
    run.report("site-c", 1)
    run.wire(weights(1), "site-b", number=1)
    decided = run.wire(kinds.ExperimentExclude(site="site-b", reason=Reason.WRONG_LABELS))
    assert refused(decided) == [Reason.EXCLUDED]
    assert run.put(i.UpdateStored(time=run.time, site="site-b", round=1, attempt=1)) == ()
    run.aggregated(1)
    assert run.opened.sites == ["site-a", "site-c"]


def test_the_last_round_ends_all_work_and_all_sites_score_the_last_model() -> None:
    run = Buffered(rounds=ROUNDS | {"count": 1})
    run.wire(weights(1), "site-b", number=1)
    run.report("site-a", 1)
    run.report("site-c", 1)
    assert run.last(d.RoundClosed).left_out == {"site-b": Reason.STRAGGLER}
    assert refused(run.steps[-1][1]) == [Reason.LATE]
    assert refused(run.wire(weights(1, 2), "site-b", number=1)) == [Reason.LATE]
    run.aggregated(1)
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    for site in SITES:
        run.evaluated(site)
    assert (run.state.phase, run.state.outcome and run.state.outcome.rounds) == (Phase.COMPLETE, 1)


def test_a_buffer_that_is_not_full_at_the_last_deadline_fails_the_experiment_with_receipts() -> None:
    run = Buffered()
    run.close(1, site_a=1, site_c=1)
    run.wire(weights(1), "site-b", number=1)
    decided = run.fire(Timer.DEADLINE)
    assert [one.sender for one in decided if isinstance(one, d.Settled)] == ["site-b"]
    assert run.state is not None
    assert (run.state.phase, run.state.reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)


def test_validation_scores_are_pooled_of_the_rounds_own_model_alone() -> None:
    run = Buffered()
    run.close(1, site_a=1, site_c=1)
    run.accept(2, "site-a", "site-c")
    assert run.opened.evaluate
    run.report("site-b", 1, validation=scores(0.9))
    run.report("site-a", 2, validation=scores(0.5))
    run.aggregated(2)
    told = run.last(d.RoundCompleted).validation
    assert run.state is not None
    assert run.state.experiment.task.reader.headline_score(told) == pytest.approx(0.5)
    assert run.state.selected is None


def test_a_site_that_cannot_read_who_goes_on_does_not_join() -> None:
    run = Run(plan=PLAN, rounds=ROUNDS, evaluation={"select_by": "last"})
    older = Author("demo", "site-a", can=OURS - {WORDS_6})
    event = older.write_event("joined", BODIES["joined"], time=run.time, experiment="exp-1", seq=1)
    assert refused(run.put(i.Received(time=run.time, raw=event.raw))) == [Reason.UNKNOWN_FIELD]


def test_with_a_buffer_of_all_sites_it_is_federated_averaging() -> None:
    run = Buffered({"buffer": 3}, quorum={"least_sites": 3})
    run.close(1, site_a=1, site_b=1, site_c=1)
    assert run.opened.going_on is None
    run.accept(2, *SITES)
    for site in SITES:
        run.report(site, 2)
    assert [(one.model, one.discount) for one in run.made().updates] == [(None, 1.0)] * 3


@pytest.mark.parametrize(
    ("plan", "changes", "mistake"),
    [
        ({"buffer": None}, {}, "needs buffer"),
        ({"buffer": 3}, {}, "only 2 sites may have joined"),
        ({"kind": "aggregation"}, {}, "go with kind"),
        ({"strategy": "FedProx"}, {}, "goes with kind"),
        ({}, {"evaluation": {}}, 'write select_by = "last"'),
    ],
)
def test_what_does_not_go_with_the_plan_is_named(plan: dict[str, Any], changes: dict[str, Any], mistake: str) -> None:
    given = {name: value for name, value in (PLAN | plan).items() if value is not None}
    run = Run(**({"plan": given, "rounds": ROUNDS, "evaluation": {"select_by": "last"}} | changes))
    assert run.state is None
    told = [one for one in run.decided if isinstance(one, d.StartRefused)]
    assert mistake in told[0].mistakes


def test_who_declines_while_the_buffer_is_averaged_has_its_update_settled() -> None:
    run = Buffered()
    run.wire(weights(1), "site-b", number=1)
    run.report("site-a", 1)
    run.report("site-c", 1)
    assert run.state is not None
    assert run.state.phase is Phase.AGGREGATING
    decided = run.wire(kinds.Declined(reason=Reason.NOT_ALLOWED), "site-b")
    events = [one.event for one in decided if isinstance(one, d.Settled)]
    assert len(events) == 2, "the update's event and the word itself"
    assert d.SiteFailed(site="site-b", reason=Reason.NOT_ALLOWED) in decided
    given = run.steps[-1][0]
    before = fold_decisions(None, [one for _given, those in run.steps[:-1] for one in those])
    assert {type(one) for one in decide(before, given, logic=5)} == {d.SiteDeclined, d.Settled}
    run.aggregated(1)
    run.close(2, site_a=2, site_c=2)
    assert run.last(d.RoundClosed).contributors == {"site-a": 10, "site-c": 10}
