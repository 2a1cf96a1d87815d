"""The site's state machine: pure, by a table of (phase, what happened), with one queue for the training slot.

`decide` says what to do about a stimulus, `evolve` applies a decision, `effects` says what the shell has to do.
`step` runs the three, and hands the slot on. No I/O, clock or randomness.

The table is total: what the coordinator may say and the phase has no use for is refused with a name; what our own
parts may say late (a trainer's last words after its round was dropped) is listed as stale; anything else of our own
raises `IllegalStimulus`, since it is a defect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from messages.kinds import (
    KINDS,
    ChunksWanted,
    Declined,
    Evaluated,
    EvaluationStart,
    ExperimentAccepted,
    ExperimentFailed,
    Joined,
    RoundAccepted,
    RoundFailed,
    RoundStart,
    WeightsReady,
)
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.transfer import TransferKey
from site_agent.evolve import evolve
from site_agent.work import (
    NEEDS_SLOT,
    Agenda,
    Approved,
    Begin,
    ChunksSent,
    CloseTrainer,
    Decision,
    Decline,
    Deliver,
    Drop,
    Effect,
    End,
    Fetch,
    Fetched,
    Free,
    GiveUp,
    Halt,
    Heard,
    Hold,
    Ignore,
    Invite,
    Job,
    Join,
    Keep,
    KeepScores,
    ModelReady,
    NoSpace,
    Phase,
    Prepare,
    Prepared,
    Receipted,
    Recount,
    Recover,
    Redo,
    Report,
    Resend,
    Restarted,
    Retry,
    RunEvaluate,
    RunPrepare,
    RunTrain,
    Say,
    Scored,
    Seal,
    SendChunks,
    Stimulus,
    Suspend,
    Switch,
    Switched,
    TakeEvaluation,
    TakeRound,
    Trained,
    TrainerDied,
    TrainerFailed,
    UpdateLost,
    event_of,
)

Decisions = tuple[Decision, ...]
Handler = Callable[[Agenda, Job, Any], Decisions]

OWN: tuple[type, ...] = (
    Approved, Prepared, ModelReady, NoSpace, Trained, Scored, TrainerFailed, TrainerDied, ChunksSent, UpdateLost,
    Receipted,
)  # fmt: skip
"""Our own stimuli about one experiment."""

HEARD = tuple(kind for kind, spec in KINDS.items() if spec.body is not None and COORDINATOR in spec.senders)
"""Every kind of event that the coordinator may send."""


class IllegalStimulus(AssertionError):
    """One of our own parts said what cannot be in this phase: a defect, never a reaction to the wire."""


def step(agenda: Agenda, stimulus: Stimulus) -> tuple[Agenda, Decisions, tuple[Effect, ...]]:
    """Decide, apply, and hand the training slot on; returns the new agenda, what was decided, what to do."""
    taken: list[Decision] = []
    todo: list[Effect] = []
    decisions = decide(agenda, stimulus)
    while decisions:
        for decision in decisions:
            before, agenda = agenda, evolve(agenda, decision)
            taken.append(decision)
            todo += effects(before, agenda, decision)
        decisions = _next_for_slot(agenda)
    return agenda, tuple(taken), tuple(todo)


def decide(agenda: Agenda, stimulus: Stimulus) -> Decisions:
    """What to do about a stimulus."""
    if isinstance(stimulus, Switched):
        return _switched(agenda, stimulus)
    if isinstance(stimulus, Restarted):
        return _restarted(agenda, stimulus)
    if isinstance(stimulus, Heard):
        experiment, name = stimulus.event.experiment, stimulus.event.kind
    else:
        experiment, name = stimulus.experiment, type(stimulus).__name__
    job = agenda.job(experiment)
    if job is None:
        if isinstance(stimulus, Heard) and name == "experiment-accepted":
            return _accepted(stimulus)
        return (Ignore(experiment, Reason.UNKNOWN_EXPERIMENT),)
    handler = TABLE.get((job.phase, name))
    if handler is None:
        raise IllegalStimulus(f"{name} in phase {job.phase}")
    return handler(agenda, job, stimulus)


def _next_for_slot(agenda: Agenda) -> Decisions:
    """Who gets the free slot: the first in the queue that may begin now. What was accepted goes on while paused."""
    if agenda.running is not None or not agenda.open:
        return ()
    for experiment in agenda.queue:
        new = agenda.jobs[experiment].phase is Phase.PREPARING
        if not (new and (agenda.paused or agenda.draining)):
            return (Begin(experiment),)
    return ()


def waits_for_hours(agenda: Agenda) -> bool:
    """Whether nothing but the operator's hours keeps the site from work: some is queued, or was refused for them."""
    if agenda.open or agenda.running is not None:
        return False
    refused = any(job.reason is Reason.OUTSIDE_HOURS for job in agenda.jobs.values() if job.phase is not Phase.ENDED)
    return (refused and not agenda.paused) or bool(_next_for_slot(replace(agenda, open=True)))


# handlers: what the coordinator says


def _accepted(heard: Heard) -> Decisions:
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


def _accepted_again(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    same = isinstance(body, ExperimentAccepted) and body.digest == job.digest
    return (Ignore(job.experiment, Reason.DUPLICATE if same else Reason.ID_TAKEN),)


def _held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    ours = isinstance(body, RoundStart | EvaluationStart) and agenda.site in body.sites
    return (Hold(job.experiment, heard.event.raw if ours else None),)


def _forget_held(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if job.pending is None or event_of(job.pending).round > heard.event.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Hold(job.experiment, None),)


def _announced(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
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


def _completed(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if heard.event.round < job.round:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Drop(job.experiment),)


def _ended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    if heard.event.kind == "experiment-aborted":
        return (End(job.experiment, Reason.ABORTED),)
    body = heard.event.body
    return (End(job.experiment, body.reason if isinstance(body, ExperimentFailed) else None),)


def _suspended(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    return (Suspend(job.experiment, heard.event.kind == "experiment-paused"),)


def _chunks_wanted(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    body = heard.event.body
    assert isinstance(body, ChunksWanted)  # noqa: S101 (for mypy: the kind says so)
    if job.update is None or (body.round, body.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if body.seal != job.update.transfer.seal:
        return (Ignore(job.experiment, Reason.WRONG_DIGEST),)
    total = job.update.transfer.manifest.chunks
    chunks = None if body.chunks is None else tuple(index for index in body.chunks if index < total)
    return (Resend(job.experiment, chunks),)


def _refused_here(reason: Reason) -> Handler:
    return lambda agenda, job, stimulus: (Ignore(job.experiment, reason),)


# handlers: what our own parts say


def _approved(agenda: Agenda, job: Job, stimulus: Approved) -> Decisions:
    return (Prepare(job.experiment),)


def _prepared(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
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


def _prepared_again(agenda: Agenda, job: Job, said: Prepared) -> Decisions:
    """A trainer that was started in mid-experiment has read the data; its round may be over meanwhile."""
    recount = Recount(job.experiment, said.counts, said.platform)
    if said.lack is None or job.phase is Phase.IDLE:
        return (recount,)
    return (recount, GiveUp(job.experiment, job.round, said.lack))


def _model_ready(agenda: Agenda, job: Job, said: ModelReady) -> Decisions:
    wanted = {effect.key.stem for effect in _fetches(job)}
    if said.key.stem not in wanted or said.key.stem in job.fetched:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (Fetched(job.experiment, said.key.stem),)


def _trained(agenda: Agenda, job: Job, said: Trained) -> Decisions:
    if agenda.running != job.experiment or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if said.cases < 1:
        return (GiveUp(job.experiment, job.round, Reason.TOO_FEW_CASES),)
    return (Keep(job.experiment, said),)


def _scored(agenda: Agenda, job: Job, said: Scored) -> Decisions:
    if agenda.running != job.experiment or said.label != job.label:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    kept = KeepScores(job.experiment, said.label, said.splits)
    last = len(job.scores) + 1 == len(job.evaluation_start.models)
    return (kept, Report(job.experiment)) if last else (kept,)


def _failed(agenda: Agenda, job: Job, said: TrainerFailed) -> Decisions:
    if agenda.running != job.experiment:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if said.reason is Reason.GPU_ERROR and not job.deaths:
        # A fresh process often finds the GPU well again, and goes on from the round's checkpoint.
        return (Retry(job.experiment),)
    return _cannot(job, said.reason)


def _no_space(agenda: Agenda, job: Job, said: NoSpace) -> Decisions:
    return _cannot(job, Reason.DISK_FULL)


def _died(agenda: Agenda, job: Job, said: TrainerDied) -> Decisions:
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


def _of_this_update(then: Callable[[Job], Decision]) -> Handler:
    def handler(agenda: Agenda, job: Job, said: ChunksSent | UpdateLost | Receipted) -> Decisions:
        if (said.round, said.attempt) != (job.round, job.attempt):
            return (Ignore(job.experiment, Reason.WRONG_ROUND),)
        return (then(job),)

    return handler


def _stale(agenda: Agenda, job: Job, said: Any) -> Decisions:
    """The last words of something that was dropped, or a model that came twice."""
    return (Ignore(job.experiment, Reason.LATE),)


def _chunks_sent(job: Job) -> Decision:
    return Ignore(job.experiment, Reason.DUPLICATE) if job.sealed else Seal(job.experiment)


# the agent as a whole


def _switched(agenda: Agenda, said: Switched) -> Decisions:
    switch = Switch(
        agenda.paused if said.paused is None else said.paused,
        agenda.draining if said.draining is None else said.draining,
        agenda.open if said.open is None else said.open,
    )
    if not said.open:
        return (switch,)
    late = (one for one in agenda.jobs.values() if (one.phase, one.reason) == (Phase.DECLINED, Reason.OUTSIDE_HOURS))
    return (switch, *(Prepare(job.experiment) for job in late))


def _restarted(agenda: Agenda, said: Restarted) -> Decisions:
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


# the table

_STANDING = tuple(phase for phase in Phase if phase is not Phase.UNKNOWN)
_AT_WORK = (Phase.FETCHING, Phase.TRAINING, Phase.SENDING, Phase.EVALUATING)


def _table() -> dict[tuple[Phase, str], Handler]:
    rows: dict[tuple[Phase, str], Handler] = {}

    def row(phases: tuple[Phase, ...], what: str | type, handler: Handler) -> None:
        for phase in phases:
            rows[phase, what if isinstance(what, str) else what.__name__] = handler

    for kind in HEARD:
        row(_STANDING, kind, _refused_here(Reason.WRONG_STATE))
    for own in OWN:
        row(_STANDING, own, _stale)
    row(_STANDING, "experiment-accepted", _accepted_again)
    for kind in ("round-start", "evaluation-start"):
        row((Phase.IDLE, *_AT_WORK), kind, _announced)
        row((Phase.AWAITING, Phase.PREPARING), kind, _held)
    row((Phase.FETCHING, Phase.TRAINING, Phase.SENDING), "round-complete", _completed)
    row((Phase.AWAITING, Phase.PREPARING), "round-complete", _forget_held)
    living = tuple(phase for phase in _STANDING if phase is not Phase.ENDED)
    for kind in ("experiment-complete", "experiment-failed", "experiment-aborted"):
        row(living, kind, _ended)
    for kind in ("experiment-paused", "experiment-resumed"):
        row(living, kind, _suspended)
    row((Phase.SENDING,), "chunks-wanted", _chunks_wanted)

    row((Phase.AWAITING,), Approved, _approved)
    row((Phase.PREPARING,), Prepared, _prepared)
    row((Phase.IDLE, Phase.FETCHING, Phase.TRAINING, Phase.EVALUATING), Prepared, _prepared_again)
    row((Phase.FETCHING, Phase.EVALUATING), ModelReady, _model_ready)
    row((Phase.FETCHING, Phase.TRAINING, Phase.EVALUATING), NoSpace, _no_space)
    row((Phase.TRAINING,), Trained, _trained)
    row((Phase.EVALUATING,), Scored, _scored)
    row(NEEDS_SLOT, TrainerFailed, _failed)
    row(NEEDS_SLOT, TrainerDied, _died)
    row((Phase.SENDING,), ChunksSent, _of_this_update(_chunks_sent))
    row((Phase.SENDING,), UpdateLost, _of_this_update(lambda job: Redo(job.experiment)))
    row((Phase.SENDING,), Receipted, _of_this_update(lambda job: Deliver(job.experiment)))
    # A trainer that was never asked cannot have said anything: what says so is broken.
    for own in (Trained, Scored, ChunksSent, UpdateLost, Receipted):
        rows.pop((Phase.AWAITING, own.__name__))
    return rows


TABLE = _table()
"""(phase, kind of event or name of own stimulus) → handler; own pairs that are absent are illegal."""


# effects


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
            return (Say("round-accepted", name, job.round, RoundAccepted()), *_fetches(job))
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
            return (Free(name, job.round - 1), *_fetches(job))
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
            return _fetches(job)
    return ()


def _declined(experiment: str, reason: Reason) -> Say:
    return Say("declined", experiment, 0, Declined(reason=reason), reason)


def _fetches(job: Job) -> tuple[Fetch, ...]:
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


def restored(agenda: Agenda) -> Agenda:
    """The agenda as it comes out of the spool: nobody waits and nobody runs until `Restarted` is handled."""
    return replace(agenda, queue=(), running=None)
