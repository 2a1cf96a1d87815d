"""What our own parts report, and what operator and clock change: one small function each, (agenda, job, input) →
decisions. Pure."""

from __future__ import annotations

from messages.reasons import PASSING, Reason
from site_agent.core.answers import Decisions, handles
from site_agent.core.budget import announce_plan
from site_agent.core.decisions import (
    Decision,
    Decline,
    Deliver,
    Drop,
    End,
    Fetched,
    GiveUp,
    Heed,
    Ignore,
    Join,
    Keep,
    KeepScores,
    Prepare,
    Recount,
    Recover,
    Redo,
    Report,
    Retry,
    Seal,
    Switch,
    TakeRound,
    TellStatistics,
)
from site_agent.core.effects import list_fetches
from site_agent.core.evolve import evolve, fold_decisions
from site_agent.core.inputs import (
    Approved,
    CasesMeasured,
    ChunksSent,
    Distrusted,
    ModelReady,
    NoSpace,
    PartBroken,
    Prepared,
    Receipted,
    Restarted,
    Retried,
    Scored,
    Switched,
    TrainerDied,
    TrainerFailed,
    TurnedDown,
    UpdateLost,
)
from site_agent.core.jobs import Agenda, Job, Phase, Trained, event_of, experiment_of, must_mask
from site_agent.core.secure.decisions import AwaitMasking, LeaveSecure, MaskAgain
from site_agent.core.secure.heard import judge_start
from site_agent.core.steps import is_well_named, named_models, opening_of

# handlers: what our own parts say


@handles(Approved)
def take_approved(agenda: Agenda, job: Job, given: Approved) -> Decisions:
    """The operator approved the experiment by hand. Records `Prepare`."""
    return (Prepare(job.experiment),)


@handles(TurnedDown)
def take_turned_down(agenda: Agenda, job: Job, given: TurnedDown) -> Decisions:
    """The operator declined the experiment by hand. Records `Decline`: the site's rules say so, through a person."""
    return (Decline(job.experiment, Reason.NOT_ALLOWED),)


@handles(Prepared)
def take_prepared(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """The trainer has read the data, and the site may join (protocol rule 5).

    Records `Join`, or `Decline` where they do not suffice; and `TakeRound` of a step that was held meanwhile.
    """
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.lack is not None:
        return (Decline(job.experiment, said.lack, said.counts),)
    dp = experiment_of(job).privacy.dp
    privacy = None if dp is None or said.price is None else announce_plan(dp, said.patients, said.price)
    join = Join(job.experiment, said.counts, said.platform, said.data, said.committed, privacy)
    if job.pending is None:
        return (join,)
    # A round came while the data were read: it is still the running one, or it would have been forgotten.
    event = event_of(job.pending)
    if agenda.has_reported(job.experiment, event.round, opening_of(event)):
        return (join,)
    if (barrier := judge_start(job, event)) is not None:
        return (join, GiveUp(job.experiment, event.round, opening_of(event), barrier))
    return (join, TakeRound(job.experiment, event.round, opening_of(event), event.raw))


@handles(Prepared)
def prepared_again(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """A trainer that was started in mid-experiment has read the data; its round may be over meanwhile.

    Records `Recount`, and `GiveUp` where they do not suffice any more.
    """
    recount = Recount(job.experiment, said.counts, said.platform)
    if said.lack is None or job.phase is Phase.IDLE:
        return (recount,)
    return (recount, GiveUp(job.experiment, job.round, job.opening, said.lack))


@handles(ModelReady)
def model_ready(agenda: Agenda, job: Job, said: ModelReady) -> Decisions:
    """A global model is complete on disk. Records `Fetched`; with the last one the job queues for the slot. `GiveUp`
    where it is not the model that the step names: what the site attests, it has computed."""
    wanted = {effect.key.stem for effect in list_fetches(job, agenda.site)}
    if said.key.stem not in wanted or said.key.stem in job.fetched:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if said.digest not in (None, named_models(job, agenda.site)[said.key.stem]) or not is_well_named(job):
        return _give_up(job, Reason.OTHER_CONTEXT)
    return (Fetched(job.experiment, said.key.stem),)


@handles(Trained)
def take_trained(agenda: Agenda, job: Job, said: Trained) -> Decisions:
    """The trainer has written the round's update, and it is sealed (protocol rule 4).

    Records `Keep`, or `GiveUp` where no case was used.
    """
    if agenda.running != job.experiment or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if must_mask(job):
        return (GiveUp(job.experiment, job.round, job.opening, Reason.PRIVACY_BELOW_FLOOR),)
    if said.cases < 1:
        return (GiveUp(job.experiment, job.round, job.opening, Reason.TOO_FEW_CASES),)
    return (Keep(job.experiment, said),)


@handles(Scored)
def take_scored(agenda: Agenda, job: Job, said: Scored) -> Decisions:
    """The trainer has scored a candidate. Records `KeepScores`, and with the last one `Report`."""
    if agenda.running != job.experiment or said.label != job.label:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    kept = KeepScores(job.experiment, said.label, said.splits)
    if len(job.scores) + 1 < len(job.evaluation_start.digests()):
        return (kept,)
    return (kept, AwaitMasking(job.experiment) if must_mask(job) else Report(job.experiment))


@handles(CasesMeasured)
def take_measured(agenda: Agenda, job: Job, said: CasesMeasured) -> Decisions:
    """The trainer has measured the training cases. Records `TellStatistics`, or `GiveUp` where all of it is below the
    floor."""
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.told is None:
        return _give_up(job, Reason.PRIVACY_BELOW_FLOOR)
    return (TellStatistics(job.experiment, said.told),)


@handles(TrainerFailed)
def take_failed(agenda: Agenda, job: Job, said: TrainerFailed) -> Decisions:
    """The trainer could not do what it was asked.

    Records `Retry` after a first error of the GPU, else `GiveUp`, or `Decline` before the site has joined.
    """
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.reason is Reason.GPU_ERROR and not job.deaths:
        # A fresh process often finds the GPU well again, and goes on from the round's checkpoint.
        return (Retry(job.experiment),)
    return _give_up(job, said.reason)


@handles(NoSpace)
def no_space(agenda: Agenda, job: Job, said: NoSpace) -> Decisions:
    """There is no room for a global model or an update. Records `GiveUp`."""
    return _give_up(job, Reason.DISK_FULL)


@handles(TrainerDied)
def take_died(agenda: Agenda, job: Job, said: TrainerDied) -> Decisions:
    """The training process ended in mid-task.

    Records `Retry` the first time: it goes on from its checkpoint, or from the model with the same seeds. Else
    `GiveUp`, or `Decline` before the site has joined.
    """
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.stuck:
        return _give_up(job, Reason.TRAINER_STUCK)
    if job.deaths:
        return _give_up(job, Reason.OUT_OF_MEMORY if said.out_of_memory else Reason.TRAINER_DIED)
    return (Retry(job.experiment),)


@handles(PartBroken)
def take_broken(agenda: Agenda, job: Job, said: PartBroken) -> Decisions:
    """A part of ours raised over the job's work, or over the event that opens a step: a defect.

    Records `GiveUp` with a code, or `Decline` before the site has joined: the coordinator waits for nothing in vain.
    """
    of_a_step = said.round > 0 or said.opening > 1  # statistics are round 0, from its second opening on
    newer = of_a_step and (said.round, said.opening) > (job.round, job.opening)
    if newer and job.phase is not Phase.PREPARING:
        left: Decisions = () if job.phase is Phase.IDLE else (Drop(job.experiment),)
        return (*left, GiveUp(job.experiment, said.round, said.opening, said.reason))
    if of_a_step or job.phase in (Phase.IDLE, Phase.REPORTED):
        return (Ignore(job.experiment, Reason.LATE),)
    return _give_up(job, said.reason)


@handles(Distrusted)
def take_distrusted(agenda: Agenda, job: Job, said: Distrusted) -> Decisions:
    """What the coordinator signed contradicts itself. Records `Decline`, which says so, and `End`: nothing of this
    experiment is done here any more."""
    return (Decline(job.experiment, said.reason), End(job.experiment, said.reason))


def _give_up(job: Job, reason: Reason) -> Decisions:
    if job.phase is Phase.PREPARING:
        return (Decline(job.experiment, reason),)
    # Of a secure round the keys are out already: it is not begun again.
    again = job.start if reason in PASSING and job.secure is None else None
    return (GiveUp(job.experiment, job.round, job.opening, reason, again),)


def _of_this_update(job: Job, said: ChunksSent | UpdateLost | Receipted) -> bool:
    return (said.round, said.attempt) == (job.round, job.attempt)


@handles(ChunksSent)
def chunks_sent(agenda: Agenda, job: Job, said: ChunksSent) -> Decisions:
    """The broker has confirmed every chunk of the update. Records `Seal`: weights-ready (protocol rule 4)."""
    if not _of_this_update(job, said):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Ignore(job.experiment, Reason.DUPLICATE) if job.sealed else Seal(job.experiment),)


@handles(UpdateLost)
def update_lost(agenda: Agenda, job: Job, said: UpdateLost) -> Decisions:
    """The update's file is not what it was. Records `Redo`: a new attempt of the round (protocol rule 4); in a secure
    round `MaskAgain`, which comes to the same bytes."""
    if not _of_this_update(job, said):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Redo(job.experiment) if job.secure is None else MaskAgain(job.experiment),)


@handles(Receipted)
def take_receipted(agenda: Agenda, job: Job, said: Receipted) -> Decisions:
    """The coordinator has dealt with the whole update (protocol rule 2). Records `Deliver`."""
    return (Deliver(job.experiment) if _of_this_update(job, said) else Ignore(job.experiment, Reason.WRONG_ROUND),)


# the agent as a whole


OPERATORS = frozenset({Reason.SITE_PAUSED, Reason.SITE_DRAINING, Reason.OUTSIDE_HOURS})
"""Reasons that operator and clock take away again."""


def take_switched(agenda: Agenda, said: Switched) -> Decisions:
    """Operator or clock changed how the agent works. Records `Switch`, `Prepare` of what waited for the hours, and
    `TakeRound` of what was given up for a reason that is gone."""
    switch = Switch(
        agenda.paused if said.paused is None else said.paused,
        agenda.draining if said.draining is None else said.draining,
        agenda.open if said.open is None else said.open,
    )
    decisions: list[Decision] = [switch]
    for job in agenda.jobs.values():
        if said.open and (job.phase, job.reason) == (Phase.DECLINED, Reason.OUTSIDE_HOURS):
            decisions.append(Prepare(job.experiment))
        elif job.reason is None or job.reason in OPERATORS:
            decisions += _take_again(switch, job)
    return tuple(decisions)


def take_restarted(agenda: Agenda, said: Restarted) -> Decisions:
    """The agent starts. Records `Recover` of each job, `Prepare` of what today's policy no longer refuses, and
    `TakeRound` of what was given up for a reason that is gone.

    If its disk went back in time: before that `Heed`, and of what it has reported or announced since `Drop` or `Redo`;
    a secure round that was open then is given up.
    """
    decisions: list[Decision] = [Heed(said.said)] if said.said else []
    after = fold_decisions(agenda, decisions)
    for experiment, job in agenda.jobs.items():
        verdict = said.verdicts.get(experiment)
        allowed = verdict is not None and verdict.allowed and not verdict.by_hand
        if job.phase is Phase.DECLINED:
            # The operator may have changed the policy; a site may join late.
            waits = job.reason is Reason.OUTSIDE_HOURS
            if verdict is not None and allowed and (waits or after.may_open(job.researcher, verdict.most)):
                decisions.append(Prepare(experiment))
                after = evolve(after, decisions[-1])
        elif experiment in said.said and job.secure is not None and job.round <= said.said[experiment].round:
            # What it said since in this round is not known here: nothing more is said of it.
            at_rest = job.phase in (Phase.IDLE, Phase.REPORTED)
            lost = GiveUp(experiment, job.round, job.opening, Reason.SECRETS_LOST)
            decisions.append(LeaveSecure(experiment) if at_rest else lost)
        elif after.has_reported(experiment, job.round, job.opening) and job.phase is not Phase.ENDED:
            decisions.append(Drop(experiment) if job.start is not None else Recover(experiment))
        elif job.phase is Phase.SENDING and job.attempt < after.attempt_above(experiment, job.round) - 1:
            decisions.append(Redo(experiment))
        elif job.phase is not Phase.ENDED:
            decisions.append(Recover(experiment))
            if allowed or verdict is None:
                decisions += _take_again(agenda, after.jobs[experiment])
    return tuple(decisions)


@handles(Retried)
def take_retried(agenda: Agenda, job: Job, said: Retried) -> Decisions:
    """A while has passed since the job gave up for want of something that may be there again: a disk, a mount.

    Records `TakeRound`.
    """
    return _take_again(agenda, job) or (Ignore(job.experiment, Reason.LATE),)


def _take_again(now: Agenda | Switch, job: Job) -> Decisions:
    """Take on what was given up, where nothing stands against it any more; the round may still wait for it."""
    if job.pending is None or job.phase not in (Phase.IDLE, Phase.REPORTED) or now.paused or now.draining:
        return ()
    if job.reason is Reason.OUTSIDE_HOURS and not now.open:
        return ()
    event = event_of(job.pending)
    if (barrier := judge_start(job, event)) is not None:
        return (GiveUp(job.experiment, event.round, opening_of(event), barrier),)
    return (TakeRound(job.experiment, event.round, opening_of(event), event.raw),)
