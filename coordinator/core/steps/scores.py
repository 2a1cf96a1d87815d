"""The step SCORES: after the last round sites score the candidates. The experiment is complete with it."""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import models
from coordinator.core.checks import judge_scores
from coordinator.core.ensembles import combine_own
from coordinator.core.plans.table import plan_of
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
    return (plan_of(state).end_experiment(state, round_, now),)


def end_overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The last deadline without a quorum: as `finish_experiment`; but scores are all that comes of an experiment that
    trained nothing, and without enough of them it has failed."""
    if state.completed == 0:
        return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)
    return finish_experiment(state, round_, now)


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
