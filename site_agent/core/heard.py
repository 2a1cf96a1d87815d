"""What each event of the coordinator means: one small function a kind, (agenda, job, event) → decisions. Pure."""

from __future__ import annotations

from messages.abilities import WORDS_3, read_abilities
from messages.kinds import ChunksWanted, ExperimentAccepted, ExperimentFailed, SiteExcluded, StatisticsPooled
from messages.reasons import IN_OLDER_WORDS, PASSING, Reason
from site_agent.core.answers import Decisions, handles
from site_agent.core.decisions import (
    Configure,
    Drop,
    End,
    GiveUp,
    Hold,
    Ignore,
    Invite,
    PassBy,
    Resend,
    Suspend,
    TakeRound,
)
from site_agent.core.inputs import (
    Heard,
)
from site_agent.core.jobs import Agenda, Job, Phase, event_of, experiment_of
from site_agent.core.secure import heard as secure
from site_agent.core.steps import STEPS, opening_of, order_of


def hear_accepted(agenda: Agenda, heard: Heard) -> Decisions:
    """experiment-accepted of a new experiment. Records `Invite`, with why the site refuses it (protocol rule 5)."""
    body = heard.event.body
    assert isinstance(body, ExperimentAccepted)  # noqa: S101 (for mypy: the kind says so)
    refusal = heard.verdict.reason
    if refusal is None and not agenda.may_open(body.researcher, heard.verdict.most):
        refusal = Reason.TOO_MANY_EXPERIMENTS
        if WORDS_3 not in read_abilities(heard.event.ext):
            refusal = IN_OLDER_WORDS[refusal]
    if refusal is None and not heard.verdict.by_hand and heard.opens_in >= body.enrol_within > 0:
        # It could not answer in time: saying so lets enrolment go on; it joins late when the hours begin.
        refusal = Reason.OUTSIDE_HOURS
    invite = Invite(
        heard.event.experiment,
        body.experiment,
        body.digest,
        body.researcher,
        heard.verdict.by_hand,
        refusal,
        heard.verdict.signer,
    )
    # An experiment that does not invite this site needs no answer.
    return (Ignore(heard.event.experiment, Reason.NOT_INVITED),) if invite.refusal is Reason.NOT_INVITED else (invite,)


@handles(Heard)
def accepted_again(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-accepted of an experiment that is known: no news, or another file under a taken id.

    Records nothing.
    """
    body = heard.event.body
    same = isinstance(body, ExperimentAccepted) and body.digest == job.digest
    return (Ignore(job.experiment, Reason.DUPLICATE if same else Reason.ID_TAKEN),)


@handles(Heard)
def hold_opening(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """A step opens before the site is ready: the operator has not approved, or the data are still read.

    Records `Hold`; the newest step that names this site is taken on once the site has joined (protocol rule 1).
    """
    event = heard.event
    if job.pending is not None and order_of(event) < order_of(event_of(job.pending)):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    ours = agenda.site in STEPS[event.kind].read(event, agenda.site).sites
    return (Hold(job.experiment, event.raw if ours else None),)


@handles(Heard)
def forget_held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """round-complete before the site is ready, or can do again what it gave up. Records `Hold` of nothing: that round
    needs it no more."""
    if job.pending is None or event_of(job.pending).round > heard.event.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Hold(job.experiment, None),)


@handles(Heard)
def hear_opening(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """A step of a round opens: round-start, evaluation-start, … The newest wins (protocol rule 5).

    Records `Drop` of what is still done for an earlier step, then `TakeRound`; `PassBy` where the step goes on without
    this site; `GiveUp` where policy, operator or hours stand against it. Nothing where the site is to go on with what
    it does for an earlier round, and does.
    """
    event = heard.event
    opened, opening = STEPS[event.kind].read(event, agenda.site), opening_of(event)
    if order_of(event) <= (job.round, job.opening):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if (again := secure.hear_again(agenda, job, event, opened.sites)) is not None:
        return again
    base = opened.going_on
    if base is not None and (base == job.round or agenda.has_reported(job.experiment, base, 1)):
        return ()
    left: Decisions = () if job.phase in (Phase.IDLE, Phase.REPORTED) else (Drop(job.experiment),)
    if agenda.site not in opened.sites or agenda.has_reported(job.experiment, event.round, opening):
        return (*left, PassBy(job.experiment, event.round, opening))
    if (barrier := secure.judge_start(job, event)) is not None:
        return (*left, GiveUp(job.experiment, event.round, opening, barrier))
    if (reason := _find_obstacle(agenda, heard, opened.within)) is not None:
        return (*left, GiveUp(job.experiment, event.round, opening, reason, event.raw if reason in PASSING else None))
    return (*left, TakeRound(job.experiment, event.round, opening, event.raw))


def _find_obstacle(agenda: Agenda, heard: Heard, within: float) -> Reason | None:
    if heard.verdict.reason is not None:
        return heard.verdict.reason
    if agenda.draining:
        return Reason.SITE_DRAINING
    if agenda.paused:
        return Reason.SITE_PAUSED
    return Reason.OUTSIDE_HOURS if heard.opens_in >= within > 0 else None


@handles(Heard)
def hear_completed(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """round-complete: what is still done for that round is for nothing (protocol rule 5). Records `Drop`; nothing where
    the plan lets it go into a later round."""
    if experiment_of(job).plan.keeps_work:
        return ()
    if heard.event.round < job.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Drop(job.experiment),)


@handles(Heard)
def hear_configured(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """statistics-pooled: the experiment goes on with what follows from them, or it asked for nothing else and is over.

    Records `Drop` of what is still measured, `Hold` of nothing instead of a request for it, and `Configure`; or `End`.
    """
    body = heard.event.body
    assert isinstance(body, StatisticsPooled)  # noqa: S101 (for mypy: the kind says so)
    if not experiment_of(job).plan.trains or body.configuration is None:
        return (End(job.experiment, None),)
    if job.configuration is not None:
        return (Ignore(job.experiment, Reason.DUPLICATE),)
    left: Decisions = (Drop(job.experiment),) if job.phase is Phase.MEASURING else ()
    if job.pending is not None and event_of(job.pending).kind == "statistics-start":
        left = (*left, Hold(job.experiment, None))  # nobody waits for them any more
    return (*left, Configure(job.experiment, body.configuration))


@handles(Heard)
def hear_ended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-complete, -failed or -aborted. Records `End`: trainer, models and updates go."""
    if heard.event.kind == "experiment-aborted":
        return (End(job.experiment, Reason.ABORTED),)
    body = heard.event.body
    return (End(job.experiment, body.reason if isinstance(body, ExperimentFailed) else None),)


@handles(Heard)
def hear_excluded(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """site-excluded: the experiment goes on without a site. Records `End` where it is this one, else nothing."""
    body = heard.event.body
    ours = isinstance(body, SiteExcluded) and body.site == agenda.site
    return (End(job.experiment, Reason.EXCLUDED),) if ours else ()


@handles(Heard)
def hear_suspended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-paused or -resumed. Records `Suspend`; what is in work is finished."""
    return (Suspend(job.experiment, heard.event.kind == "experiment-paused"),)


@handles(Heard)
def chunks_wanted(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """chunks-wanted: the coordinator lacks chunks of the update that is being sent (protocol rule 4).

    Records `Resend`.
    """
    body = heard.event.body
    assert isinstance(body, ChunksWanted)  # noqa: S101 (for mypy: the kind says so)
    if job.update is None or (body.round, body.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if body.seal != job.update.transfer.seal:
        return (Ignore(job.experiment, Reason.WRONG_DIGEST),)
    total = job.update.transfer.manifest.chunks
    chunks = None if body.chunks is None else tuple(index for index in body.chunks if index < total)
    return (Resend(job.experiment, chunks),)
