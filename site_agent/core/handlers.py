"""What each input means: one small function each, (agenda, job, input) → decisions. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from messages.kinds import ChunksWanted, ExperimentAccepted, ExperimentFailed
from messages.reasons import Reason
from site_agent.core.decisions import (
    Decision,
    Decline,
    Deliver,
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
    PassBy,
    Prepare,
    Recount,
    Recover,
    Redo,
    Report,
    Resend,
    Retry,
    Seal,
    Suspend,
    Switch,
    TakeRound,
)
from site_agent.core.effects import fetches
from site_agent.core.inputs import (
    AnyInput,
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
from site_agent.core.steps import STEPS, opening_of, order_of

Decisions = tuple[Decision, ...]
Handler = Callable[[Agenda, Job, AnyInput], Decisions]
"""What an input means for a job."""

Given = TypeVar("Given")


def on(kind: type[Given]) -> Callable[[Callable[[Agenda, Job, Given], Decisions]], Handler]:
    """Makes a handler of one class of input fit into the table; TypeError where it is given another."""

    def fitted(handler: Callable[[Agenda, Job, Given], Decisions]) -> Handler:
        @wraps(handler)
        def handle(agenda: Agenda, job: Job, given: AnyInput) -> Decisions:
            if not isinstance(given, kind):
                raise TypeError(f"{type(given).__name__} goes to another handler than {handler.__name__}")
            return handler(agenda, job, given)

        return handle

    return fitted


# handlers: what the coordinator says


def accepted(heard: Heard) -> Decisions:
    """experiment-accepted of a new experiment. Records `Invite`, with why the site refuses it (protocol rule 5)."""
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


@on(Heard)
def accepted_again(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-accepted of an experiment that is known: no news, or another file under a taken id.

    Records nothing.
    """
    body = heard.event.body
    same = isinstance(body, ExperimentAccepted) and body.digest == job.digest
    return (Ignore(job.experiment, Reason.DUPLICATE if same else Reason.ID_TAKEN),)


@on(Heard)
def held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """A step opens before the site is ready: the operator has not approved, or the data are still read.

    Records `Hold`; the newest step that names this site is taken on once the site has joined (protocol rule 1).
    """
    event = heard.event
    if job.pending is not None and order_of(event) < order_of(event_of(job.pending)):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    ours = agenda.site in STEPS[event.kind].read(event).sites
    return (Hold(job.experiment, event.raw if ours else None),)


@on(Heard)
def forget_held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """round-complete before the site is ready. Records `Hold` of nothing: that round needs it no more."""
    if job.pending is None or event_of(job.pending).round > heard.event.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Hold(job.experiment, None),)


@on(Heard)
def announced(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """A step of a round opens: round-start, evaluation-start, … The newest wins (protocol rule 5).

    Records `Drop` of what is still done for an earlier step, then `TakeRound`; `PassBy` where the step goes on without
    this site; `GiveUp` where policy, operator or hours stand against it.
    """
    event = heard.event
    opened, opening = STEPS[event.kind].read(event), opening_of(event)
    if order_of(event) <= (job.round, job.opening):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    left: Decisions = () if job.phase is Phase.IDLE else (Drop(job.experiment),)
    if agenda.site not in opened.sites:
        return (*left, PassBy(job.experiment, event.round, opening))
    if (reason := _obstacle(agenda, heard, opened.within)) is not None:
        return (*left, GiveUp(job.experiment, event.round, opening, reason))
    return (*left, TakeRound(job.experiment, event.round, opening, event.raw))


def _obstacle(agenda: Agenda, heard: Heard, within: float) -> Reason | None:
    if heard.verdict.reason is not None:
        return heard.verdict.reason
    if agenda.draining:
        return Reason.SITE_DRAINING
    if agenda.paused:
        return Reason.SITE_PAUSED
    return Reason.OUTSIDE_HOURS if heard.opens_in >= within > 0 else None


@on(Heard)
def completed(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """round-complete: what is still done for that round is for nothing (protocol rule 5). Records `Drop`."""
    if heard.event.round < job.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Drop(job.experiment),)


@on(Heard)
def ended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-complete, -failed or -aborted. Records `End`: trainer, models and updates go."""
    if heard.event.kind == "experiment-aborted":
        return (End(job.experiment, Reason.ABORTED),)
    body = heard.event.body
    return (End(job.experiment, body.reason if isinstance(body, ExperimentFailed) else None),)


@on(Heard)
def suspended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """experiment-paused or -resumed. Records `Suspend`; what is in work is finished."""
    return (Suspend(job.experiment, heard.event.kind == "experiment-paused"),)


@on(Heard)
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


# handlers: what our own parts say


@on(Approved)
def approved(agenda: Agenda, job: Job, given: Approved) -> Decisions:
    """The operator approved the experiment by hand. Records `Prepare`."""
    return (Prepare(job.experiment),)


@on(Prepared)
def prepared(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """The trainer has read the data, and the site may join (protocol rule 5).

    Records `Join`, or `Decline` where they do not suffice; and `TakeRound` of a step that was held meanwhile.
    """
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.lack is not None:
        return (Decline(job.experiment, said.lack, said.counts),)
    join = Join(job.experiment, said.counts, said.platform, said.data)
    if job.pending is None:
        return (join,)
    # A round came while the data were read: it is still the running one, or it would have been forgotten.
    event = event_of(job.pending)
    return (join, TakeRound(job.experiment, event.round, opening_of(event), event.raw))


@on(Prepared)
def prepared_again(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """A trainer that was started in mid-experiment has read the data; its round may be over meanwhile.

    Records `Recount`, and `GiveUp` where they do not suffice any more.
    """
    recount = Recount(job.experiment, said.counts, said.platform)
    if said.lack is None or job.phase is Phase.IDLE:
        return (recount,)
    return (recount, GiveUp(job.experiment, job.round, job.opening, said.lack))


@on(ModelReady)
def model_ready(agenda: Agenda, job: Job, said: ModelReady) -> Decisions:
    """A global model is complete on disk. Records `Fetched`; with the last one the job queues for the slot."""
    wanted = {effect.key.stem for effect in fetches(job)}
    if said.key.stem not in wanted or said.key.stem in job.fetched:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Fetched(job.experiment, said.key.stem),)


@on(Trained)
def trained(agenda: Agenda, job: Job, said: Trained) -> Decisions:
    """The trainer has written the round's update, and it is sealed (protocol rule 4).

    Records `Keep`, or `GiveUp` where no case was used.
    """
    if agenda.running != job.experiment or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if said.cases < 1:
        return (GiveUp(job.experiment, job.round, job.opening, Reason.TOO_FEW_CASES),)
    return (Keep(job.experiment, said),)


@on(Scored)
def scored(agenda: Agenda, job: Job, said: Scored) -> Decisions:
    """The trainer has scored a candidate. Records `KeepScores`, and with the last one `Report`."""
    if agenda.running != job.experiment or said.label != job.label:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    kept = KeepScores(job.experiment, said.label, said.splits)
    last = len(job.scores) + 1 == len(job.evaluation_start.models)
    return (kept, Report(job.experiment)) if last else (kept,)


@on(TrainerFailed)
def failed(agenda: Agenda, job: Job, said: TrainerFailed) -> Decisions:
    """The trainer could not do what it was asked.

    Records `Retry` after a first error of the GPU, else `GiveUp`, or `Decline` before the site has joined.
    """
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.reason is Reason.GPU_ERROR and not job.deaths:
        # A fresh process often finds the GPU well again, and goes on from the round's checkpoint.
        return (Retry(job.experiment),)
    return _cannot(job, said.reason)


@on(NoSpace)
def no_space(agenda: Agenda, job: Job, said: NoSpace) -> Decisions:
    """There is no room for a global model or an update. Records `GiveUp`."""
    return _cannot(job, Reason.DISK_FULL)


@on(TrainerDied)
def died(agenda: Agenda, job: Job, said: TrainerDied) -> Decisions:
    """The training process ended in mid-task.

    Records `Retry` the first time: it goes on from its checkpoint, or from the model with the same seeds. Else
    `GiveUp`, or `Decline` before the site has joined.
    """
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
    return (GiveUp(job.experiment, job.round, job.opening, reason),)


def _of_this_update(job: Job, said: ChunksSent | UpdateLost | Receipted) -> bool:
    return (said.round, said.attempt) == (job.round, job.attempt)


@on(ChunksSent)
def chunks_sent(agenda: Agenda, job: Job, said: ChunksSent) -> Decisions:
    """The broker has confirmed every chunk of the update. Records `Seal`: weights-ready (protocol rule 4)."""
    if not _of_this_update(job, said):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Ignore(job.experiment, Reason.DUPLICATE) if job.sealed else Seal(job.experiment),)


@on(UpdateLost)
def update_lost(agenda: Agenda, job: Job, said: UpdateLost) -> Decisions:
    """The update's file is not what it was. Records `Redo`: a new attempt of the round (protocol rule 4)."""
    return (Redo(job.experiment) if _of_this_update(job, said) else Ignore(job.experiment, Reason.WRONG_ROUND),)


@on(Receipted)
def receipted(agenda: Agenda, job: Job, said: Receipted) -> Decisions:
    """The coordinator has dealt with the whole update (protocol rule 2). Records `Deliver`."""
    return (Deliver(job.experiment) if _of_this_update(job, said) else Ignore(job.experiment, Reason.WRONG_ROUND),)


# the agent as a whole


def switched(agenda: Agenda, said: Switched) -> Decisions:
    """Operator or clock changed how the agent works. Records `Switch`, and `Prepare` of what waited for the hours."""
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
    """The agent starts. Records `Recover` of each job, and `Prepare` of what today's policy no longer refuses."""
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
