"""What a decision asks the shell to do (`site_agent.loop.effect_runner`); every effect may be repeated. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from messages.kinds import Body, Declined, Evaluated, Joined, Label, RoundAccepted, RoundFailed, WeightsReady
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey
from site_agent.core.decisions import (
    Begin,
    Decision,
    Decline,
    Deliver,
    Drop,
    End,
    GiveUp,
    Hold,
    Ignore,
    Invite,
    Join,
    Keep,
    KeepScores,
    Recount,
    Recover,
    Redo,
    Report,
    Resend,
    Seal,
    Suspend,
    Switch,
    TakeEvaluation,
    TakeRound,
)
from site_agent.core.jobs import Agenda, Job, Phase


@dataclass(frozen=True)
class Say:
    """Write a history event to the outbox, in the transaction that stores the state."""

    kind: str
    experiment: str
    round: int
    body: Body
    attempt: int | str = 1


@dataclass(frozen=True)
class Fetch:
    """See that a global model comes to be on disk; answered with ModelReady."""

    key: TransferKey
    seal: Sealed


@dataclass(frozen=True)
class RunPrepare:
    experiment: str


@dataclass(frozen=True)
class RunTrain:
    experiment: str


@dataclass(frozen=True)
class RunEvaluate:
    experiment: str
    label: Label


@dataclass(frozen=True)
class SendChunks:
    """Publish chunks of the update (None: all); all of them are answered with ChunksSent."""

    experiment: str
    chunks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Halt:
    """End the trainer's present work, and the process with it where it trains, since that cannot be taken back; one
    that still reads its data goes on."""

    experiment: str


@dataclass(frozen=True)
class CloseTrainer:
    """The experiment is over: end its warm process."""

    experiment: str


@dataclass(frozen=True)
class Free:
    """Remove models and updates up to a round; None: all of the experiment."""

    experiment: str
    round: int | None


Effect = Say | Fetch | RunPrepare | RunTrain | RunEvaluate | SendChunks | Halt | CloseTrainer | Free


def effects(before: Agenda, after: Agenda, decision: Decision) -> tuple[Effect, ...]:
    """What the shell has to do about a decision, given the agenda before and after it."""
    if isinstance(decision, Ignore | Hold | Recount | Suspend | Switch):
        return ()
    name = decision.experiment
    was, job = before.job(name), after.jobs[name]
    halt: tuple[Effect, ...] = (Halt(name),) if before.running == name and after.running != name else ()
    match decision:
        case Invite(refusal=Reason() as reason):
            return (_declined(name, reason),)
        case Invite(by_hand=True):
            return (_declined(name, Reason.AWAITS_APPROVAL),)
        case Join():
            return (Say("joined", name, 0, Joined(cases=decision.counts, platform=decision.platform)),)
        case Decline():
            return (
                Say(
                    "declined",
                    name,
                    0,
                    Declined(reason=decision.reason, cases=decision.counts),
                    decision.reason,
                ),
                CloseTrainer(name),
            )
        case Drop():
            return (*halt, Free(name, was.round if was else None))
        case TakeRound() | TakeEvaluation():
            return (Say("round-accepted", name, job.round, RoundAccepted()), *fetches(job))
        case Begin():
            return (_task(job),)
        case Keep():
            return (SendChunks(name),)
        case Seal():
            return (_weights_ready(job),)
        case Resend():
            return (SendChunks(name, decision.chunks),)
        case Deliver():
            return (Free(name, job.round),)
        case Redo():
            return (Free(name, job.round - 1), *fetches(job))
        case GiveUp():
            said = Say("round-failed", name, decision.round, RoundFailed(reason=decision.reason), decision.reason)
            return (said, *halt, Free(name, decision.round))
        case KeepScores():
            return () if job.label is None else (RunEvaluate(name, job.label),)
        case Report():
            return (Say("evaluated", name, job.round, Evaluated(scores=job.scores)), Free(name, job.round))
        case End():
            return (*halt, CloseTrainer(name), Free(name, None))
        case Recover():
            if job.phase is Phase.SENDING:
                return () if job.sealed else (SendChunks(name),)
            return fetches(job)
    return ()


def _declined(experiment: str, reason: Reason) -> Say:
    return Say("declined", experiment, 0, Declined(reason=reason), reason)


def fetches(job: Job) -> tuple[Fetch, ...]:
    """The models that the job's task needs."""
    if job.phase in (Phase.FETCHING, Phase.TRAINING):
        sealed = [job.round_start.transfer]
    elif job.phase is Phase.EVALUATING:
        sealed = [one.transfer for one in job.evaluation_start.models]
    else:
        return ()
    keys = {TransferKey(job.experiment, one.round, COORDINATOR, one.attempt): one for one in sealed}
    return tuple(Fetch(key, one) for key, one in keys.items())


def _task(job: Job) -> Effect:
    if job.phase is Phase.PREPARING:
        return RunPrepare(job.experiment)
    if job.phase is Phase.TRAINING:
        return RunTrain(job.experiment)
    label = job.label
    assert label is not None  # noqa: S101 (for mypy: a job with every model scored has reported)
    return RunEvaluate(job.experiment, label)


def _weights_ready(job: Job) -> Say:
    update = job.update
    assert update is not None and job.counts is not None and job.platform is not None  # noqa: S101, PT018 (for mypy)
    body = WeightsReady(
        transfer=update.transfer,
        cases_used=update.cases,
        cases=job.counts,
        epochs=update.epochs,
        steps=update.steps,
        loss=update.loss,
        seconds=update.seconds,
        validation=update.validation,
        platform=job.platform,
    )
    return Say("weights-ready", job.experiment, job.round, body, job.attempt)
