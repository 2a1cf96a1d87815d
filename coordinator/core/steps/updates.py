"""The step UPDATES: sites train the round's model, and each sends an update. The round closes with it."""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import models
from coordinator.core.checks import judge_steps, judge_update
from coordinator.core.plans.table import plan_of
from coordinator.core.state import UPDATES, ExperimentState, Phase, Round
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, is_foreign, supersede_attempt
from messages import kinds
from messages.reasons import Reason


def make_body(state: ExperimentState, round_: Round) -> kinds.RoundStart:
    """round-start. It names one model for all who take part, and those that have a model of their own."""
    number = plan_of(state).find_shared(round_)
    own = {site: _own_model(state, round_, site) for site in _list_own(state, round_)}
    return kinds.RoundStart(
        transfer=models.transfer_of(state, number),
        model_digest=state.models[number].digest,
        sites=sorted(round_.parts),
        evaluate=round_.evaluate,
        train_within=state.experiment.rounds.train_within,
        own=own or None,
        going_on={site: base for site, base in sorted(round_.going_on.items()) if site in round_.parts} or None,
    )


def _list_own(state: ExperimentState, round_: Round) -> list[str]:
    plan = plan_of(state)
    return [site for site in sorted(round_.parts) if plan.find_own(state, round_, site) is not None]


def _own_model(state: ExperimentState, round_: Round, site: str) -> kinds.OwnModel:
    sent, digest = models.own_transfer(state, round_.number, site), state.own[round_.number][site].digest
    return kinds.OwnModel(round=sent.round, attempt=sent.attempt, seal=sent.seal, model_digest=digest)


def list_transfers(state: ExperimentState, round_: Round) -> tuple[kinds.Transfer, ...]:
    """The models that its sites train."""
    own = _list_own(state, round_)
    shared = len(own) + len(round_.going_on) < len(round_.parts)
    sent = (models.transfer_of(state, plan_of(state).find_shared(round_)),) if shared else ()
    return (*sent, *(models.own_transfer(state, round_.number, site) for site in own))


def weights_ready(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """weights-ready, when a site has sent all chunks of its update and seals it (protocol rule 4).

    Records `UpdateAnnounced`. Its receipt waits until the whole update is verified and stored, or refused for good.
    """
    event, body = given.event, body_of(given, kinds.WeightsReady)
    expected = state.update_manifest
    if expected is None:
        return Reason.WRONG_STATE
    part, anew = round_.parts[event.sender], event.round != round_.base_of(event.sender)
    if body.transfer.round != event.round:
        return Reason.WRONG_ROUND
    if part.update is not None and body.transfer.attempt <= part.update.attempt and not anew:
        return Reason.OLDER_ATTEMPT if body.transfer.attempt < part.update.attempt else Reason.DUPLICATE
    bad = None
    if body.transfer.manifest.codec != expected.codec:
        bad = Reason.WRONG_CODEC
    elif not body.transfer.manifest.same_tensors(expected):
        bad = Reason.WRONG_SHAPE
    elif state.is_masked and (body.loss is not None or body.validation is not None):
        bad = Reason.MALFORMED  # such figures of one site are what the round is to keep secret
    elif body.cases_used == 0:
        bad = Reason.NO_CASES
    elif body.validation is not None and is_foreign(state, body.validation):
        bad = Reason.MALFORMED
    elif state.logic >= 3:
        bad = judge_update(round_, state.members[event.sender], event.sender, body)
        bad = bad or judge_steps(state, round_, event.sender, body)
    before: Decided = supersede_attempt(state, event.sender)
    if anew:
        before = (*before, d.SiteAccepted(site=event.sender, anew=True))
    if bad is not None:
        told = d.Refused(event=event.id, kind=event.kind, sender=event.sender, reason=bad, round=event.round)
        return (*before, d.SiteFailed(site=event.sender, reason=bad), told)
    announced = d.UpdateAnnounced(
        site=event.sender,
        attempt=body.transfer.attempt,
        seal=body.transfer.seal,
        chunk_bytes=body.transfer.manifest.chunk_bytes,
        event=event.id,
        cases_used=body.cases_used,
        validation=body.validation,
        steps=body.steps if state.experiment.plan.strategy.counts_steps else None,
    )
    return (*before, announced)


def close_updates(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Take no more updates, tell those whose transfer was under way, and have the contributors' ones combined."""
    contributors = {
        site: update.cases_used
        for site in plan_of(state).choose_contributors(state, round_)
        if (update := round_.parts[site].update) is not None
    }
    left_out, told = plan_of(state).leave_behind(state, round_)
    left_out = dict(sorted({**round_.left_out, **left_out}.items()))
    closed = d.RoundClosed(number=round_.number, time=now, contributors=contributors, left_out=left_out)
    return (closed, *told)


def fail_overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Too few updates: without them there is no next model."""
    return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)


ROW = StepRow(
    name=UPDATES,
    phase=Phase.RUNNING,
    opens="round-start",
    answers="weights-ready",
    takes_updates=True,
    within=lambda experiment: experiment.rounds.train_within,
    body=make_body,
    transfers=list_transfers,
    answered=weights_ready,
    close=close_updates,
    overdue=fail_overdue,
)
