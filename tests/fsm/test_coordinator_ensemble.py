"""The plan whose sites train alone and predict together: scored twice, weighed in between, yielded as one."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import MANIFEST, SITES, plain, scores
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.announce import complete_body, round_opened
from coordinator.core.effects import PublishModel, effects, pending_effects
from coordinator.core.models import name_models
from coordinator.core.records import MadeModel
from coordinator.core.state import Phase, Timer
from messages import kinds
from messages.experiment import Experiment
from messages.reasons import Reason

ROUNDS = {"count": 1, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0, "extensions": 0}
MEANS = {"own-1": 0.2, "own-2": 0.6, "own-3": 0.0}
"""Validation score of each site's model, at every site."""


def digest_of(site: str) -> str:
    return site[-1] * 64


def trained(**plan: Any) -> Run:
    """Each site has trained its own model, and the evaluation is open."""
    run = Run(plan={"kind": "ensemble", **plan}, rounds=ROUNDS)
    run.join()
    run.initial()
    for site in SITES:
        run.report(site, 1)
    own = {site: MadeModel(seal=digest_of(site), digest=digest_of(site)) for site in SITES}
    run.put(i.Aggregated(time=run.time, round=1, seal="", digest=name_models(own), own=own))
    return run


def opened(run: Run) -> kinds.EvaluationStart:
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.EvaluationStart)
    return body


def score(run: Run, site: str, mean: float = 0.9, test: float = 0.7) -> None:
    """A site scores what is asked for: each model as `MEANS` says, the ensemble as given."""
    found = {
        label: kinds.ModelScores(
            model_digest=digest, splits={"validation": scores(MEANS.get(label, mean)), "test": scores(test)}
        )
        for label, digest in opened(run).digests().items()
    }
    run.wire(kinds.Evaluated(scores=found), site, number=2)


def test_first_each_model_is_scored_and_then_the_ensemble_by_the_same_sites() -> None:
    run = trained()
    first = opened(run)
    assert (list(first.digests()), first.combined) == (["own-1", "own-2", "own-3"], None)
    for site in SITES:
        score(run, site)
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    assert round_opened(run.state).attempt == 2
    second = opened(run)
    assert (list(second.digests()), second.sites) == (["ensemble"], [*SITES])
    assert second.combined is not None
    assert [one.seal for one in second.transfers()] == [digest_of(site) for site in SITES]
    for site in SITES:
        score(run, site)
    assert run.state.phase is Phase.COMPLETE
    complete = complete_body(run.state)
    assert complete.combined == second.combined
    assert (complete.model.label, complete.model.model_digest) == ("ensemble", second.combined.model_digest)
    assert complete.test is not None
    assert run.state.experiment.task.reader.headline_score(complete.test) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("combine", "rule", "weights"),
    [
        ("mean", "mean", [1 / 3] * 3),
        ("majority", "majority", [1 / 3] * 3),
        ("validation", "mean", [0.25, 0.75, 0.0]),
    ],
)
def test_the_parts_count_alike_or_by_their_validation_scores(combine: str, rule: str, weights: list[float]) -> None:
    run = trained(combine=combine)
    for site in SITES:
        score(run, site)
    combined = opened(run).combined
    assert combined is not None
    assert (combined.rule, list(combined.weights.values())) == (rule, pytest.approx(weights))
    (started,) = [one for one in run.decided if isinstance(one, d.RoundStarted) and one.weights]
    assert started.weights == dict(combined.weights)


def test_a_model_without_an_error_weighs_most_where_less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(combine="validation")
    assert run.state is not None
    monkeypatch.setattr(type(run.state.experiment.task.reader), "higher_is_better", False)
    for label, mean in (("own-1", 0.0), ("own-2", 0.5), ("own-3", 0.5)):
        monkeypatch.setitem(MEANS, label, mean)
    for site in SITES:
        score(run, site)
    combined = opened(run).combined
    assert combined is not None
    assert combined.weights["own-1"] == pytest.approx(1.0)


def test_the_digest_of_an_ensemble_names_rule_parts_and_weights() -> None:
    parts = {"own-1": ("a" * 64, 0.5), "own-2": ("b" * 64, 0.5)}
    names = {
        kinds.name_ensemble("mean", parts),
        kinds.name_ensemble("majority", parts),
        kinds.name_ensemble("mean", parts | {"own-2": ("c" * 64, 0.5)}),
        kinds.name_ensemble("mean", {"own-1": ("a" * 64, 0.25), "own-2": ("b" * 64, 0.75)}),
    }
    assert len(names) == 4


def test_an_ensemble_on_the_wire_has_parts_and_a_weight_for_each() -> None:
    run = trained()
    for site in SITES:
        score(run, site)
    combined = opened(run).combined
    assert combined is not None
    for wrong in ({"weights": {"own-1": 1.0}}, {"weights": {}, "parts": {}}):
        with pytest.raises(ValueError, match="each part has a weight"):
            kinds.Combined.model_validate(combined.model_dump() | wrong)


def test_a_site_that_is_lost_in_between_is_not_waited_for_and_late_scores_of_single_models_are_refused() -> None:
    run = trained()
    for site in ("site-a", "site-b"):
        score(run, site)
    single = {"own-1": kinds.ModelScores(model_digest=digest_of("site-a"), splits={"test": scores(0.5)})}
    run.fire(Timer.GRACE)
    assert opened(run).sites == ["site-a", "site-b"]
    late = run.wire(kinds.Evaluated(scores=single), "site-c", number=2)
    assert [one.reason for one in late if isinstance(one, d.Refused)] == [Reason.LATE]
    for site in ("site-a", "site-b"):
        score(run, site)
    assert run.state is not None
    assert run.state.phase is Phase.COMPLETE


def test_an_end_before_the_ensemble_was_scored_yields_it_without_a_test_score() -> None:
    run = trained()
    run.fire(Timer.DEADLINE)
    assert run.state is not None
    assert run.state.phase is Phase.COMPLETE
    complete = complete_body(run.state)
    assert complete.combined is not None
    assert complete.test is None
    assert list(complete.combined.weights.values()) == pytest.approx([1 / 3] * 3)


def test_a_site_that_is_excluded_while_it_trains_has_no_part_and_one_that_is_excluded_later_keeps_it() -> None:
    run = trained()
    score(run, "site-a")
    run.wire(kinds.ExperimentExclude(site="site-c", reason=Reason.WRONG_LABELS))
    score(run, "site-b")
    combined = opened(run).combined
    assert combined is not None
    assert list(combined.parts) == ["own-1", "own-2"]
    score(run, "site-a")
    assert run.state is not None
    assert opened(run).combined == combined


def test_all_parts_are_published_after_a_restart_too() -> None:
    run = trained()
    for _ in range(2):
        for site in SITES:
            score(run, site)
    assert run.state is not None
    (published,) = [one for one in pending_effects(run.state) if isinstance(one, PublishModel)]
    assert published.body.combined is not None
    sent = published.body.combined.transfers()
    assert [one.manifest for one in sent.values()] == [MANIFEST] * 3
    assert len({(one.round, one.attempt) for one in sent.values()}) == 3


def test_combine_is_a_key_of_this_plan_alone() -> None:
    with pytest.raises(ValueError, match="combine goes with"):
        Experiment.model_validate(plain(plan={"kind": "alone", "combine": "majority"}))
    assert Experiment.model_validate(plain(plan={"kind": "ensemble"})).form == 0
    assert Experiment.model_validate(plain(plan={"kind": "ensemble", "combine": "mean"})).form == 2


def test_nothing_of_an_ensemble_stands_in_the_log_of_another_plan() -> None:
    run = Run()
    run.join()
    run.initial()
    said = [d.to_plain(one) for one in run.decided]
    assert not any("weights" in one for one in said)
    assert all(effects(run.state, one) is not None for one in run.decided)
