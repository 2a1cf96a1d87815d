"""What each kind of event from the wire means: one small function a kind, (state, input) → decisions or a reason to
refuse.

Handlers record; what follows from the record is `rules.advance_state`'s business.
"""

from __future__ import annotations

from functools import wraps

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.admission import judge_start
from coordinator.core.checks import judge_counts
from coordinator.core.handlers.answers import Handler, handles, paused_by, receipts_left
from coordinator.core.plans.buffering import refuse_number, takes_more
from coordinator.core.plans.table import plan_of
from coordinator.core.state import KEYS, SHARES, UPDATES, ExperimentState, Phase, Standing
from coordinator.core.steps import secure
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, supersede_attempt
from messages import codec, kinds
from messages.abilities import WORDS_4, WORDS_6, WORDS_7, read_abilities
from messages.reasons import Reason
from messages.secure.said import name_signer

# researchers


def first_start(given: i.Received) -> Decided:
    """experiment-start with an id that is free. Records `Accepted`, or `StartRefused` with the reason."""
    return (judge_start(given),)


def take_witnessed(given: i.Received) -> Answer:
    """head-witnessed, which is of no experiment: a site cosigned a head of the log. Records `Witnessed`."""
    if not given.known:
        return Reason.UNKNOWN_SITE
    return (d.Witnessed(site=given.event.sender, size=body_of(given, kinds.HeadWitnessed).size),)


@handles(i.Received)
def start_again(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-start with an id that is taken: the same content is no news, other content is refused.

    Records nothing, or `StartRefused`.
    """
    body, found = body_of(given, kinds.ExperimentStart), given.file_check
    if found is not None and found.digest == state.digest:
        return ()
    # The very file that was accepted, whatever the model of today finds in it.
    if codec.pack(body.experiment) == codec.pack(dict(state.file)):
        return ()
    return (d.StartRefused(experiment=state.id, event=given.event.id, reason=Reason.ID_TAKEN),)


@handles(i.Received)
def take_abort(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-abort, by the researcher who started the experiment.

    Records `Aborted`, and receipts for updates that are under way: nobody will ask for them any more (rule 2).
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (*receipts_left(state), d.Aborted(time=given.time))


@handles(i.Received)
def take_pause(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-pause, by the researcher who started the experiment.

    Records `Paused` with what is left on each timer. What comes in meanwhile is still recorded; nothing advances.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (paused_by(state, given.time, None),)


@handles(i.Received)
def pause_for_good(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-pause of an experiment that only waits for the disk, by the researcher who started it.

    Records `Paused`: space alone no longer lets it go on. Refused where the researcher has paused it already.
    """
    if state.logic < 3 or state.paused_because is None:
        return Reason.WRONG_STATE
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (d.Paused(reason=None, remaining=dict(state.remaining)),)


@handles(i.Received)
def take_resume(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-resume of a paused experiment, by the researcher who started it.

    Records `Resumed`: each timer gets what was left on it.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (d.Resumed(timers={name: given.time + left for name, left in state.remaining.items()}),)


@handles(i.Received)
def take_finish(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-finish, by the researcher who started the experiment: it ends with the model that there is.

    Records `Completed`, and receipts for updates that are under way (rule 2). Test scores are those that the evaluation
    has brought so far. Refused while no round has made a model, unless the one that it began with is being scored.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    if state.completed == 0 and state.stage is not Phase.EVALUATING:
        return Reason.WRONG_STATE
    return (*receipts_left(state), plan_of(state).end_experiment(state, state.round, given.time))


@handles(i.Received)
def take_exclude(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-exclude, by the researcher who started the experiment: a site takes no part any more.

    Records `Excluded`, and receipts for an update that was under way (rule 2). What the site has reported in the open
    step is not used, and quorum counts without it; a round that is closed stands. Refused where fewer than
    `quorum.least_sites` would be left: then nothing could come of the experiment.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    body = body_of(given, kinds.ExperimentExclude)
    member = state.members.get(body.site)
    if member is None:
        return Reason.NOT_INVITED
    if member.standing is Standing.EXCLUDED:
        return ()
    if member.standing is Standing.JOINED or state.stage is Phase.RECRUITING:
        staying = (Standing.JOINED, Standing.INVITED) if state.stage is Phase.RECRUITING else (Standing.JOINED,)
        left = [name for name, one in state.members.items() if name != body.site and one.standing in staying]
        if len(left) < state.experiment.least_sites:
            return Reason.QUORUM_NOT_MET
    return (*_drop_update(state, body.site), d.Excluded(site=body.site, reason=body.reason))


@handles(i.Barred)
def take_barred(state: ExperimentState, given: i.Barred) -> Answer:
    """The operator revoked a party's key. A site takes no part any more, whoever would have it otherwise.

    Records `Excluded`, as for experiment-exclude, and `Failed` where fewer than `quorum.least_sites` are left that have
    joined. While sites are still recruited, enrolment decides that. If it is the experiment's own researcher, nobody
    may steer or end it any more: records `Failed`.
    """
    if state.logic >= 6 and given.site == state.researcher:
        return (*receipts_left(state), d.Failed(time=given.time, reason=given.reason))
    member = state.members.get(given.site)
    if member is None or member.standing in (Standing.EXCLUDED, Standing.DECLINED):
        return ()
    out = d.Excluded(site=given.site, reason=given.reason)
    left = [name for name in state.joined if name != given.site]
    if state.stage is Phase.RECRUITING or len(left) >= state.experiment.least_sites:
        return (*_drop_update(state, given.site), out)
    return (*receipts_left(state), out, d.Failed(time=given.time, reason=Reason.QUORUM_NOT_MET))


def _drop_update(state: ExperimentState, site: str) -> Decided:
    """Receipts for an update that is under way, of a site that is excluded."""
    round_ = state.round
    part = None if round_ is None or not takes_more(state) else round_.parts.get(site)
    if round_ is None or part is None or part.update is None or part.stored:
        return ()
    event, number = part.update.event, round_.base_of(site)
    refused = d.Refused(event=event, kind="weights-ready", sender=site, reason=Reason.EXCLUDED, round=number)
    return (refused, d.Settled(event=event, sender=site))


# sites


def _refuse_uninvited(state: ExperimentState, site: str) -> Reason | None:
    member = state.members.get(site)
    if member is None:
        return Reason.NOT_INVITED
    return Reason.EXCLUDED if member.standing is Standing.EXCLUDED else None


def _refuse_outside(state: ExperimentState, given: i.Received) -> Reason | None:
    """Why an event about a round is not about this site's part in the open one."""
    site, number = given.event.sender, given.event.round
    if (reason := _refuse_uninvited(state, site)) is not None:
        return reason
    if state.members[site].standing is not Standing.JOINED:
        return Reason.NOT_JOINED
    if state.experiment.plan.keeps_work and state.round is not None and state.round.step == UPDATES:
        return refuse_number(state, state.round, site, number)
    current = state.round.number if state.round is not None else state.completed
    closed = state.round is None or state.round.closed_at is not None
    if number < current or (number == current and closed and number > 0):
        return Reason.LATE
    if state.round is None or number != current:
        return Reason.WRONG_ROUND
    if site in state.round.left_out:
        return Reason.LATE
    # It joined after this round had begun: it takes part from the next one.
    return None if site in state.round.parts else Reason.WRONG_ROUND


@handles(i.Received)
def take_joined(state: ExperimentState, given: i.Received) -> Answer:
    """joined, when a site has read its data and wants to take part (protocol rule 5).

    Records `SiteJoined`. At any time before the evaluation: the site takes part from the next round. Training cases
    are needed where the plan trains.
    """
    site, body = given.event.sender, body_of(given, kinds.Joined)
    if (reason := _refuse_uninvited(state, site)) is not None:
        return reason
    if body.cases.train == 0 and state.experiment.plan.uses_training:
        return Reason.NO_CASES
    can = tuple(sorted(read_abilities(given.event.ext)))
    if (state.measured is not None or state.experiment.measures_first) and WORDS_6 not in can:
        return Reason.UNKNOWN_FIELD  # it could not read what it is asked, nor what the experiment goes on with
    if state.is_masked and WORDS_7 not in can:
        return Reason.UNKNOWN_FIELD
    if state.is_masked and name_signer(given.event) is None:
        return Reason.SIGNATURE_MISSING  # its peers could not tell its word from the coordinator's
    plan = state.experiment.plan
    if (not plan.shares_model and WORDS_4 not in can) or (plan.keeps_work and WORDS_6 not in can):
        return Reason.UNKNOWN_FIELD  # its round-start would name what an older site cannot read
    if state.logic < 3:
        return (d.SiteJoined(site=site, train=body.cases.train, abilities=can),)
    if (reason := judge_counts(state, body.cases)) is not None:
        return reason
    cases = body.cases
    return (d.SiteJoined(site=site, train=cases.train, validation=cases.validation, test=cases.test, abilities=can),)


@handles(i.Received)
def take_declined(state: ExperimentState, given: i.Received) -> Answer:
    """declined, when a site does not take part, or no longer (protocol rule 5).

    Records `SiteDeclined`, and `SiteFailed` where the open step waited for it.
    """
    site, body = given.event.sender, body_of(given, kinds.Declined)
    if (reason := _refuse_uninvited(state, site)) is not None:
        return reason
    answer: Decided = (d.SiteDeclined(site=site, reason=body.reason),)
    # While a buffer is averaged, an update that is under way would go into the next one.
    waits = takes_more(state) and (state.logic >= 6 or state.round is None or state.round.closed_at is None)
    part = state.round.parts.get(site) if state.round is not None and waits else None
    if part is not None and (not part.reported or _is_only_prepared(state)):
        return (*supersede_attempt(state, site), *answer, d.SiteFailed(site=site, reason=body.reason))
    return answer


@handles(i.Received)
def take_leaving(state: ExperimentState, given: i.Received) -> Answer:
    """leaving, when a site's agent is stopped (protocol rule 5).

    Records `SiteAway`: the open step does not wait for it once there is a quorum. Whatever is next heard of it brings
    it back.
    """
    site = given.event.sender
    if (reason := _refuse_uninvited(state, site)) is not None:
        return reason
    if state.members[site].standing is not Standing.JOINED:
        return ()
    return (d.SiteAway(site=site),)


@handles(i.Received)
def round_accepted(state: ExperimentState, given: i.Received) -> Answer:
    """round-accepted, when a site has read the event that opened the step and takes it on (protocol rule 5).

    Records `SiteAccepted`: the step is not announced again for this site. Under a plan in which work goes on from round
    to round, a site that lost it begins anew with the open round's model.
    """
    if (reason := _refuse_outside(state, given)) is not None:
        return reason
    site = given.event.sender
    if state.round is not None and given.event.round != state.round.base_of(site):
        return (*supersede_attempt(state, site), d.SiteAccepted(site=site, anew=True))
    return (d.SiteAccepted(site=site),)


@handles(i.Received)
def round_failed(state: ExperimentState, given: i.Received) -> Answer:
    """round-failed, when a site cannot deliver its part of the open step (protocol rule 5).

    Records `SiteFailed`, and receipts for an update that was under way (rule 2).
    """
    body = body_of(given, kinds.RoundFailed)
    if (reason := _refuse_outside(state, given)) is not None:
        return reason
    site = given.event.sender
    if state.round is not None and state.round.parts[site].reported and not _is_only_prepared(state):
        return Reason.DUPLICATE
    return (*supersede_attempt(state, site), d.SiteFailed(site=site, reason=body.reason))


def _is_only_prepared(state: ExperimentState) -> bool:
    """Whether a site that has answered the open step has still to do what the round is for."""
    return state.round is not None and state.round.role in (KEYS, SHARES)


@handles(i.Received)
def take_complaint(state: ExperimentState, given: i.Received) -> Answer:
    """secure-complaint, when what a peer sealed for a site does not open (protocol rule 5).

    Records `ShareUnopened` with what the one-time key shows, and `RoundVoided` where too few are left who could help to
    rebuild a secret of the round.
    """
    if (reason := _refuse_outside(state, given)) is not None:
        return reason
    return Reason.WRONG_STATE if state.round is None else secure.take_complaint(state, state.round, given)


def take_answer(*rows: StepRow) -> Handler:
    """The answer that a step asks for: once, from a site that takes part, while the step is open.

    Args:
        rows: the steps that ask for it, in one phase.
    """
    by_step = {row.name: row for row in rows}

    @handles(i.Received)
    @wraps(rows[0].answered)
    def handler(state: ExperimentState, given: i.Received) -> Answer:
        if (reason := _refuse_outside(state, given)) is not None:
            return reason
        if state.round is None:
            return Reason.WRONG_STATE
        if (row := by_step.get(state.round.step)) is None:
            return Reason.LATE if state.round.tried else Reason.WRONG_STATE
        if state.round.parts[given.event.sender].reported:
            return Reason.DUPLICATE
        return row.answered(state, state.round, given)

    return handler


@handles(i.Received)
def refuse_late(state: ExperimentState, given: i.Received) -> Answer:
    """An answer about a round in a phase in which none is open: refused as late, or for what else is wrong with it."""
    return _refuse_outside(state, given) or Reason.WRONG_STATE
