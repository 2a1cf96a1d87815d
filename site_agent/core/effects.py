"""What a decision asks the shell to do (`site_agent.loop.effect_runner`); every effect may be repeated. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from messages.kinds import Body, Declined, Joined, Label, RoundAccepted, RoundFailed
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.tensors.signed_chunks import CHUNKS, SIGNED
from messages.tensors.transfer import TransferKey
from messages.trust.signatures import MODEL
from site_agent.core.decisions import (
    Begin,
    Configure,
    Decision,
    Decline,
    Deliver,
    Drop,
    End,
    GiveUp,
    Heed,
    Ignore,
    Invite,
    Join,
    Keep,
    KeepScores,
    PassBy,
    Recover,
    Redo,
    Report,
    Resend,
    Seal,
    Switch,
    TakeRound,
    TellStatistics,
)
from site_agent.core.jobs import Agenda, Job, Phase, event_of, experiment_of
from site_agent.core.secure.changes import Work, find_work
from site_agent.core.secure.decisions import (
    AwaitMasking,
    KeepInside,
    MaskAgain,
    SecretsKept,
    TakeMail,
    TakeStep,
    TellSecure,
    TryAgain,
)
from site_agent.core.steps import STEPS, models_of, row_of


@dataclass(frozen=True)
class Say:
    """Write a history event to the outbox, in the transaction that stores the state."""

    kind: str
    experiment: str
    round: int
    body: Body
    attempt: int | str = 1
    more: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What goes into its `ext`: keyed digests of what the site keeps, the model that it received."""
    question: bytes | None = None
    """The event that it answers; None: what the job's step was opened with."""


@dataclass(frozen=True)
class KeepSecrets:
    """Write a secure round's row into the spool, in the transaction that stores the state."""

    experiment: str
    round: int
    kept: SecretsKept


@dataclass(frozen=True)
class FreeSecrets:
    """Delete the rows of secure rounds up to this one, in the same transaction; None: all of the experiment."""

    experiment: str
    round: int | None


@dataclass(frozen=True)
class RunSecure:
    """Make what the job's secure round asks for now; answered with SecureAnswered, UpdateMasked or SecureRefused."""

    experiment: str
    work: Work


@dataclass(frozen=True)
class Fetch:
    """See that a global model comes to be on disk; answered with ModelReady. `signed`: so are its chunks."""

    key: TransferKey
    seal: Sealed
    signed: bool = False


@dataclass(frozen=True)
class RunPrepare:
    experiment: str


@dataclass(frozen=True)
class RunTrain:
    experiment: str


@dataclass(frozen=True)
class RunMeasure:
    """Have the training cases measured."""

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


Effect = (
    Say
    | KeepSecrets
    | FreeSecrets
    | Fetch
    | RunPrepare
    | RunMeasure
    | RunTrain
    | RunEvaluate
    | RunSecure
    | SendChunks
    | Halt
    | CloseTrainer
    | Free
)
STORED = (Say, KeepSecrets, FreeSecrets)
"""What is done in the transaction that stores the state; all else after it."""


def effects(before: Agenda, after: Agenda, decision: Decision) -> tuple[Effect, ...]:
    """What the shell has to do about a decision, given the agenda before and after it."""
    if isinstance(decision, Ignore | Heed | Switch):
        return ()
    name, made = decision.experiment, _EFFECTS.get(type(decision))
    was, job = before.job_of(name), after.jobs[name]
    halted = before.running == name and after.running != name
    halt = (Halt(name),) if halted else ()
    asked = () if made is None else made(_Change(was, job, halt, after.site), decision)
    return (*asked, *_free_secrets(was, job))


def _free_secrets(was: Job | None, job: Job) -> tuple[Effect, ...]:
    """Secrets go with the round that they are of."""
    over = was is not None and was.secure is not None and (job.secure is None or job.round != was.round)
    return (FreeSecrets(job.experiment, was.round),) if over and was is not None else ()


@dataclass(frozen=True)
class _Change:
    """A job before and after a decision; `halt` where it ran in the slot and runs there no more."""

    was: Job | None
    job: Job
    halt: tuple[Effect, ...]
    site: str


def _effects_of_invite(change: _Change, x: Invite) -> tuple[Effect, ...]:
    if x.refusal is not None:
        return (_say_declined(x.experiment, x.refusal),)
    return (_say_declined(x.experiment, Reason.AWAITS_APPROVAL),) if x.by_hand else ()


def _effects_of_join(change: _Change, x: Join) -> tuple[Effect, ...]:
    body = Joined(cases=x.counts, platform=x.platform, privacy=x.privacy)
    said = Say("joined", x.experiment, 0, body, more=x.committed)
    # It may have read its data while the experiment had no net yet: then it cannot train.
    return (said,) if change.job.configuration is None else (said, CloseTrainer(x.experiment))


def _tell_statistics(change: _Change, x: TellStatistics) -> tuple[Effect, ...]:
    job = change.was
    assert job is not None  # noqa: S101 (for mypy: statistics are of a step)
    return (Say("statistics-ready", x.experiment, job.round, x.told, job.opening),)


def _effects_of_configure(change: _Change, x: Configure) -> tuple[Effect, ...]:
    """Its trainer knows of no net, and ends; one that still reads the data goes on, and ends as the site joins."""
    return () if change.job.phase is Phase.PREPARING else (CloseTrainer(x.experiment),)


def _effects_of_decline(change: _Change, x: Decline) -> tuple[Effect, ...]:
    body = Declined(reason=x.reason, cases=x.counts)
    return (Say("declined", x.experiment, 0, body, x.reason), CloseTrainer(x.experiment))


def _effects_of_drop(change: _Change, x: Drop) -> tuple[Effect, ...]:
    return (*change.halt, Free(x.experiment, change.was.round if change.was else None))


def _effects_of_take(change: _Change, x: TakeRound) -> tuple[Effect, ...]:
    """What is said of a later opening of a round is another event than what was said of the first."""
    job, row = change.job, STEPS[event_of(x.raw).kind]
    attempt: int | str = f"{x.opening}.{job.again}" if job.again else x.opening
    said = Say("round-accepted", x.experiment, x.round, RoundAccepted(), attempt)
    if row.phase is Phase.IDLE:
        return (said, Say(row.answers, x.experiment, x.round, row.answer(job), x.opening))
    return (said, *list_fetches(job, change.site), *_secure_work(job))


def _secure_work(job: Job) -> tuple[Effect, ...]:
    work = find_work(job)
    return () if work is None else (RunSecure(job.experiment, work),)


def _effects_of_try(change: _Change, x: TryAgain) -> tuple[Effect, ...]:
    said = Say("round-accepted", x.experiment, change.job.round, RoundAccepted(), x.opening)
    return (said, *_secure_work(change.job))


def _tell_secure(change: _Change, x: TellSecure) -> tuple[Effect, ...]:
    """What is known to have been done is stored with the word that says so."""
    job, was = change.job, change.was
    assert was is not None and was.secure is not None  # noqa: S101, PT018 (for mypy: an answer is of a secure round)
    question = was.secure.masking if x.kind == "secure-figures" else was.secure.asked
    said = Say(x.kind, x.experiment, job.round, x.body, job.opening, question=question)
    done = (Free(x.experiment, job.round),) if x.kind == "secure-figures" else ()
    return (KeepSecrets(x.experiment, job.round, x.kept), said, *done, *_secure_work(job))


def _effects_of_seal(change: _Change, x: Seal) -> tuple[Effect, ...]:
    job, row = change.job, row_of(change.job)
    assert row is not None  # noqa: S101 (for mypy: an update is of a step)
    question = None if job.secure is None else job.secure.masking
    seen = {MODEL: job.round_start.find_attested(change.site)}
    return (Say(row.answers, x.experiment, job.round, row.answer(job), job.attempt, seen, question),)


def _give_up(change: _Change, x: GiveUp) -> tuple[Effect, ...]:
    """Given up once more, after it was taken on again, is another event than the first one.

    Nothing is said where a proof is on its way: the coordinator would go on with another site for half a second's sake.
    Where it does not come the site counts as absent.
    """
    if x.reason is Reason.UNPROVEN_LOG:
        return (*change.halt, Free(x.experiment, x.round))
    attempt = x.reason if x.opening == 1 else f"{x.reason}.{x.opening}"
    if change.job.again:
        attempt = f"{x.reason}.{x.opening}.{change.job.again}"
    said = Say("round-failed", x.experiment, x.round, RoundFailed(reason=x.reason), attempt)
    return (said, *change.halt, Free(x.experiment, x.round))


def _keep_scores(change: _Change, x: KeepScores) -> tuple[Effect, ...]:
    label = change.job.label
    return () if label is None else (RunEvaluate(x.experiment, label),)


def _effects_of_report(change: _Change, x: Report) -> tuple[Effect, ...]:
    job, row = change.job, row_of(change.was) if change.was is not None else None
    assert row is not None  # noqa: S101 (for mypy: a report is of a step)
    said = Say(row.answers, x.experiment, job.round, row.answer(job), job.opening)
    return (said,) if change.was is not None and _is_scored_again(change.was) else (said, Free(x.experiment, job.round))


def _is_scored_again(job: Job) -> bool:
    """Whether the models that were scored are scored once more: together, as an ensemble."""
    scores_parts = job.phase is Phase.EVALUATING and job.evaluation_start.combined is None
    return scores_parts and experiment_of(job).plan.kind == "ensemble"


def _effects_of_recover(change: _Change, x: Recover) -> tuple[Effect, ...]:
    if change.job.phase is Phase.SENDING:
        return (*(() if change.job.sealed else (SendChunks(x.experiment),)), *_secure_work(change.job))
    return (*list_fetches(change.job, change.site), *_secure_work(change.job))


_EFFECTS: dict[type, Callable[[_Change, Any], tuple[Effect, ...]]] = {
    Invite: _effects_of_invite,
    Join: _effects_of_join,
    Decline: _effects_of_decline,
    Drop: _effects_of_drop,
    TakeRound: _effects_of_take,
    PassBy: lambda change, x: (Free(x.experiment, x.round),),
    Begin: lambda change, x: (_task_of(change.job),),
    Keep: lambda change, x: (SendChunks(x.experiment),),
    Seal: _effects_of_seal,
    Resend: lambda change, x: (SendChunks(x.experiment, x.chunks),),
    Deliver: lambda change, x: (Free(x.experiment, change.job.round),),
    Redo: lambda change, x: (Free(x.experiment, change.job.round - 1), *list_fetches(change.job, change.site)),
    GiveUp: _give_up,
    KeepScores: _keep_scores,
    Report: _effects_of_report,
    TellStatistics: _tell_statistics,
    Configure: _effects_of_configure,
    End: lambda change, x: (*change.halt, CloseTrainer(x.experiment), Free(x.experiment, None)),
    Recover: _effects_of_recover,
    TryAgain: _effects_of_try,
    TellSecure: _tell_secure,
    **dict.fromkeys(
        (TakeStep, TakeMail, KeepInside, AwaitMasking, MaskAgain), lambda change, x: _secure_work(change.job)
    ),
}
"""What each decision asks for; the others ask for nothing."""


def _say_declined(experiment: str, reason: Reason) -> Say:
    return Say("declined", experiment, 0, Declined(reason=reason), reason)


def list_fetches(job: Job, site: str) -> tuple[Fetch, ...]:
    """The models that the job's task needs at the site of this name."""
    if job.phase not in (Phase.FETCHING, Phase.TRAINING, Phase.EVALUATING):
        return ()
    keys = {TransferKey(job.experiment, one.round, COORDINATOR, one.attempt): one for one in models_of(job, site)}
    signed = job.start is not None and event_of(job.start).ext.get(CHUNKS) == SIGNED
    return tuple(Fetch(key, one, signed) for key, one in keys.items())


def _task_of(job: Job) -> Effect:
    if job.phase is Phase.PREPARING:
        return RunPrepare(job.experiment)
    if job.phase is Phase.MEASURING:
        return RunMeasure(job.experiment)
    if job.phase is Phase.TRAINING:
        return RunTrain(job.experiment)
    label = job.label
    assert label is not None  # noqa: S101 (for mypy: a job with every model scored has reported)
    return RunEvaluate(job.experiment, label)
