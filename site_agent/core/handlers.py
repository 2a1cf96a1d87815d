"""What each thing that happens means: one small function each, (agenda, job, stimulus) → decisions. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from messages.kinds import ChunksWanted, EvaluationStart, ExperimentAccepted, ExperimentFailed, RoundStart
from messages.reasons import Reason
from site_agent.core.decisions import (
    Decision,
    Decline,
    Drop,
    End,
    Fetched,
    GiveUp,
    Hold,
    Ignore,
    Invite,
    Join,
    Keep,
    KeepScores,
    Prepare,
    Recount,
    Recover,
    Report,
    Resend,
    Retry,
    Seal,
    Suspend,
    Switch,
    TakeEvaluation,
    TakeRound,
)
from site_agent.core.effects import fetches
from site_agent.core.inputs import (
    Approved,
    ChunksSent,
    Heard,
    ModelReady,
    NoSpace,
    Prepared,
    Receipted,
    Restarted,
    Scored,
    Switched,
    TrainerDied,
    TrainerFailed,
    UpdateLost,
)
from site_agent.core.jobs import Agenda, Job, Phase, Trained, event_of

Decisions = tuple[Decision, ...]
Handler = Callable[[Agenda, Job, Any], Decisions]


# handlers: what the coordinator says


def accepted(heard: Heard) -> Decisions:
    body = heard.event.body
    assert isinstance(body, ExperimentAccepted)  # noqa: S101 (for mypy: the kind says so)
    refusal = heard.verdict.reason
    if refusal is None and not heard.verdict.by_hand and heard.opens_in >= body.enrol_within > 0:
        # It could not answer in time: saying so lets enrolment go on; it joins late when the hours begin.
        refusal = Reason.OUTSIDE_HOURS
    invite = Invite(
        heard.event.experiment, body.experiment, body.digest, body.researcher, heard.verdict.by_hand, refusal
    )
    # An experiment that does not invite this site needs no answer.
    return (Ignore(heard.event.experiment, Reason.NOT_INVITED),) if invite.refusal is Reason.NOT_INVITED else (invite,)


def accepted_again(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    same = isinstance(body, ExperimentAccepted) and body.digest == job.digest
    return (Ignore(job.experiment, Reason.DUPLICATE if same else Reason.ID_TAKEN),)


def held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    ours = isinstance(body, RoundStart | EvaluationStart) and agenda.site in body.sites
    return (Hold(job.experiment, heard.event.raw if ours else None),)


def forget_held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if job.pending is None or event_of(job.pending).round > heard.event.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Hold(job.experiment, None),)


def announced(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """A round or the evaluation begins: the newest wins."""
    event, body = heard.event, heard.event.body
    assert isinstance(body, RoundStart | EvaluationStart)  # noqa: S101 (for mypy: the kind says so)
    if event.round <= job.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    left: Decisions = () if job.phase is Phase.IDLE else (Drop(job.experiment),)
    if agenda.site not in body.sites:
        return left or (Ignore(job.experiment, Reason.NOT_JOINED),)
    within = body.train_within if isinstance(body, RoundStart) else body.evaluate_within
    if (reason := _obstacle(agenda, heard, within)) is not None:
        return (*left, GiveUp(job.experiment, event.round, reason))
    take = TakeRound if isinstance(body, RoundStart) else TakeEvaluation
    return (*left, take(job.experiment, event.round, event.raw))


def _obstacle(agenda: Agenda, heard: Heard, within: float) -> Reason | None:
    if heard.verdict.reason is not None:
        return heard.verdict.reason
    if agenda.draining:
        return Reason.SITE_DRAINING
    if agenda.paused:
        return Reason.SITE_PAUSED
    return Reason.OUTSIDE_HOURS if heard.opens_in >= within > 0 else None


def completed(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if heard.event.round < job.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Drop(job.experiment),)


def ended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if heard.event.kind == "experiment-aborted":
        return (End(job.experiment, Reason.ABORTED),)
    body = heard.event.body
    return (End(job.experiment, body.reason if isinstance(body, ExperimentFailed) else None),)


def suspended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    return (Suspend(job.experiment, heard.event.kind == "experiment-paused"),)


def chunks_wanted(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    assert isinstance(body, ChunksWanted)  # noqa: S101 (for mypy: the kind says so)
    if job.update is None or (body.round, body.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if body.seal != job.update.transfer.seal:
        return (Ignore(job.experiment, Reason.WRONG_DIGEST),)
    total = job.update.transfer.manifest.chunks
    chunks = None if body.chunks is None else tuple(index for index in body.chunks if index < total)
    return (Resend(job.experiment, chunks),)


def refused_here(reason: Reason) -> Handler:
    return lambda agenda, job, stimulus: (Ignore(job.experiment, reason),)


# handlers: what our own parts say


def approved(agenda: Agenda, job: Job, stimulus: Approved) -> Decisions:
    return (Prepare(job.experiment),)


def prepared(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.lack is not None:
        return (Decline(job.experiment, said.lack, said.counts),)
    join = Join(job.experiment, said.counts, said.platform, said.data)
    if job.pending is None:
        return (join,)
    # A round came while the data were read: it is still the running one, or it would have been forgotten.
    event = event_of(job.pending)
    take = TakeRound if isinstance(event.body, RoundStart) else TakeEvaluation
    return (join, take(job.experiment, event.round, event.raw))


def prepared_again(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """A trainer that was started in mid-experiment has read the data; its round may be over meanwhile."""
    recount = Recount(job.experiment, said.counts, said.platform)
    if said.lack is None or job.phase is Phase.IDLE:
        return (recount,)
    return (recount, GiveUp(job.experiment, job.round, said.lack))


def model_ready(agenda: Agenda, job: Job, said: ModelReady) -> Decisions:
    wanted = {effect.key.stem for effect in fetches(job)}
    if said.key.stem not in wanted or said.key.stem in job.fetched:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Fetched(job.experiment, said.key.stem),)


def trained(agenda: Agenda, job: Job, said: Trained) -> Decisions:
    if agenda.running != job.experiment or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if said.cases < 1:
        return (GiveUp(job.experiment, job.round, Reason.TOO_FEW_CASES),)
    return (Keep(job.experiment, said),)


def scored(agenda: Agenda, job: Job, said: Scored) -> Decisions:
    if agenda.running != job.experiment or said.label != job.label:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    kept = KeepScores(job.experiment, said.label, said.splits)
    last = len(job.scores) + 1 == len(job.evaluation_start.models)
    return (kept, Report(job.experiment)) if last else (kept,)


def failed(agenda: Agenda, job: Job, said: TrainerFailed) -> Decisions:
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.reason is Reason.GPU_ERROR and not job.deaths:
        # A fresh process often finds the GPU well again, and goes on from the round's checkpoint.
        return (Retry(job.experiment),)
    return _cannot(job, said.reason)


def no_space(agenda: Agenda, job: Job, said: NoSpace) -> Decisions:
    return _cannot(job, Reason.DISK_FULL)


def died(agenda: Agenda, job: Job, said: TrainerDied) -> Decisions:
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.stuck:
        return _cannot(job, Reason.TRAINER_STUCK)
    if job.deaths:
        return _cannot(job, Reason.OUT_OF_MEMORY if said.out_of_memory else Reason.TRAINER_DIED)
    return (Retry(job.experiment),)


def _cannot(job: Job, reason: Reason) -> Decisions:
    if job.phase is Phase.PREPARING:
        return (Decline(job.experiment, reason),)
    return (GiveUp(job.experiment, job.round, reason),)


def of_this_update(then: Callable[[Job], Decision]) -> Handler:
    def handler(agenda: Agenda, job: Job, said: ChunksSent | UpdateLost | Receipted) -> Decisions:
        if (said.round, said.attempt) != (job.round, job.attempt):
            return (Ignore(job.experiment, Reason.WRONG_ROUND),)
        return (then(job),)

    return handler


def stale(agenda: Agenda, job: Job, said: Any) -> Decisions:
    """The last words of something that was dropped, or a model that came twice."""
    return (Ignore(job.experiment, Reason.LATE),)


def chunks_sent(job: Job) -> Decision:
    return Ignore(job.experiment, Reason.DUPLICATE) if job.sealed else Seal(job.experiment)


# the agent as a whole


def switched(agenda: Agenda, said: Switched) -> Decisions:
    switch = Switch(
        agenda.paused if said.paused is None else said.paused,
        agenda.draining if said.draining is None else said.draining,
        agenda.open if said.open is None else said.open,
    )
    if not said.open:
        return (switch,)
    late = (one for one in agenda.jobs.values() if (one.phase, one.reason) == (Phase.DECLINED, Reason.OUTSIDE_HOURS))
    return (switch, *(Prepare(job.experiment) for job in late))


def restarted(agenda: Agenda, said: Restarted) -> Decisions:
    decisions: list[Decision] = []
    for experiment, job in agenda.jobs.items():
        if job.phase is Phase.DECLINED:
            verdict = said.verdicts.get(experiment)
            # The operator may have changed the policy; a site may join late.
            if verdict is not None and verdict.allowed and not verdict.by_hand:
                decisions.append(Prepare(experiment))
        elif job.phase is not Phase.ENDED:
            decisions.append(Recover(experiment))
    return tuple(decisions)
