"""The step SCORES: after the last round sites score the candidates. The experiment is complete with it."""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import models
from coordinator.core.checks import judge_scores
from coordinator.core.ensembles import ENSEMBLE, combine_own, mean_own, pool_parts, weigh_parts
from coordinator.core.state import SCORES, ExperimentState, Phase, Round
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, is_foreign
from messages import kinds
from messages.reasons import Reason
from messages.scores import SplitScores


def make_body(state: ExperimentState, round_: Round) -> kinds.EvaluationStart:
    """evaluation-start."""
    sites, within = sorted(round_.parts), state.experiment.rounds.train_within
    combined = combine_own(state, round_.weights)
    found = models.list_candidates(state) if combined is None else []
    return kinds.EvaluationStart(models=found, sites=sites, evaluate_within=within, combined=combined)


def list_transfers(state: ExperimentState, round_: Round) -> tuple[kinds.Transfer, ...]:
    """The candidates; a selected one is sent again under its own round. Parts of an ensemble are at the sites."""
    if round_.weights:
        return ()
    return make_body(state, round_).transfers()


def take_evaluated(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """evaluated, when a site has scored every candidate (protocol rule 3, rules of evaluation 5).

    Records `SiteEvaluated`. Scores of another model, of targets that the experiment does not name, or that the site's
    cases cannot have, are refused: `SiteFailed`, so that nobody waits for better ones.
    """
    event, body = given.event, body_of(given, kinds.Evaluated)
    if (bad := _find_fault(state, event.sender, body)) is None:
        return (d.SiteEvaluated(site=event.sender, scores=dict(body.scores)),)
    if state.logic < 3:
        return bad
    told = d.Refused(event=event.id, kind=event.kind, sender=event.sender, reason=bad, round=event.round)
    return (d.SiteFailed(site=event.sender, reason=bad), told)


def _find_fault(state: ExperimentState, site: str, body: kinds.Evaluated) -> Reason | None:
    expected = {} if state.round is None else make_body(state, state.round).digests()
    for label, scores in body.scores.items():
        if expected.get(label) != scores.model_digest:
            return Reason.WRONG_DIGEST
        if any(is_foreign(state, split) for split in scores.splits.values()):
            return Reason.MALFORMED
        splits: dict[str, SplitScores] = dict(scores.splits.items())
        if state.logic >= 3 and (bad := judge_scores(state.members[site], splits)) is not None:
            return bad
    return None


def finish_experiment(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Choose the model on validation scores; test scores are only reported.

    So it is at the last deadline too: the model is made, and too few scores are a reason to say so (n is always told),
    not to throw it away.
    """
    return (complete_experiment(state, round_, now),)


def end_overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The last deadline without a quorum: as `finish_experiment`; but scores are all that comes of an experiment that
    trained nothing, and without enough of them it has failed."""
    if state.completed == 0:
        return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)
    return finish_experiment(state, round_, now)


def complete_experiment(state: ExperimentState, round_: Round | None, now: float) -> d.Completed:
    """The experiment's end with the model that there is, whatever has been reported of it.

    Args:
        round_: the open one; only an evaluation has scores of the candidates.
    """
    if state.own_models and state.experiment.plan.kind == "ensemble":
        return _complete_ensemble(state, round_, now)
    if state.own_models:
        label = _best_own(state, round_)
        test = _pool_scores(state, round_, label, "test")
        return d.Completed(time=now, label=label, rounds=state.completed, test=test)
    label, rounds = "final", models.final_rounds(state)
    best = state.selected
    if best is not None and best != state.completed:
        reader = state.experiment.task.reader
        final = _pool_scores(state, round_, "final", "validation")
        final_mean = reader.headline_score(final) if final is not None else None
        best_mean = next(scored.mean for scored in state.scores if scored.rounds == best)
        if final_mean is None or reader.rank_score(best_mean) > reader.rank_score(final_mean):
            label, rounds = "selected", best
    return d.Completed(time=now, label=label, rounds=rounds, test=_pool_scores(state, round_, label, "test"))


def _complete_ensemble(state: ExperimentState, round_: Round | None, now: float) -> d.Completed:
    """With the ensemble as it was scored; before that, with the weights that follow from what has been reported."""
    parts = {} if round_ is None or round_.step != SCORES else round_.parts
    weights = dict(round_.weights) if round_ is not None and round_.weights else weigh_parts(state, parts)
    test = pool_parts(state, parts, ENSEMBLE, "test")
    return d.Completed(time=now, label=ENSEMBLE, rounds=state.completed, test=test, weights=weights)


def _best_own(state: ExperimentState, round_: Round | None) -> str:
    """The site's model with the best validation score over the sites that scored it; the first of equals by name."""
    rank, found = state.experiment.task.reader.rank_score, mean_own(state, {} if round_ is None else round_.parts)
    scored = {label: rank(mean) for label, mean in found.items() if mean is not None}
    return max(scored, key=lambda label: scored[label]) if scored else next(iter(found))


def _pool_scores(state: ExperimentState, round_: Round | None, label: str, split: str) -> SplitScores | None:
    return None if round_ is None else pool_parts(state, round_.parts, label, split)


ROW = StepRow(
    name=SCORES,
    phase=Phase.EVALUATING,
    opens="evaluation-start",
    answers="evaluated",
    takes_updates=False,
    within=lambda experiment: experiment.rounds.train_within,
    body=make_body,
    transfers=list_transfers,
    answered=take_evaluated,
    close=finish_experiment,
    overdue=end_overdue,
)
