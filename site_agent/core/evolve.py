"""How a decision changes the agenda. Pure; `site_agent.core.agenda` decides, this applies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from messages.kinds import ModelScores
from messages.names import COORDINATOR
from messages.tensors.transfer import TransferKey
from site_agent.core.decisions import (
    Begin,
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
    TakeEvaluation,
    TakeRound,
)
from site_agent.core.jobs import NEEDS_SLOT, Agenda, Job, Phase

_NO_TASK: dict[str, Any] = {"start": None, "update": None, "sealed": False, "fetched": (), "deaths": 0}


def evolve(agenda: Agenda, decision: Decision) -> Agenda:
    """The agenda after a decision."""
    if isinstance(decision, Ignore | Resend):
        return agenda
    if isinstance(decision, Switch):
        return replace(agenda, paused=decision.paused, draining=decision.draining, open=decision.open)
    name = decision.experiment
    if isinstance(decision, Invite):
        return _with(agenda, _invited(decision))
    job = agenda.jobs[name]
    if isinstance(decision, Begin):
        return replace(agenda, running=name, queue=tuple(one for one in agenda.queue if one != name))
    if isinstance(decision, Retry):
        return _with(_released(agenda, name), job.model_copy(update={"deaths": job.deaths + 1}))
    changed = job.model_copy(update=_changes(job, decision))
    if isinstance(decision, Recount | Hold | Suspend | KeepScores) or (
        isinstance(decision, Fetched) and changed.phase is job.phase and agenda.running == name
    ):
        return _with(agenda, changed, queue=False)
    if isinstance(decision, Fetched):
        return _with(agenda, changed)
    return _with(_released(agenda, name), changed)


def _invited(decision: Invite) -> Job:
    phase = Phase.AWAITING if decision.by_hand else Phase.PREPARING
    return Job(
        experiment=decision.experiment,
        digest=decision.digest,
        file=decision.file,
        researcher=decision.researcher,
        phase=phase if decision.refusal is None else Phase.DECLINED,
        reason=decision.refusal,
    )


def _changes(job: Job, decision: Decision) -> dict[str, Any]:
    match decision:
        case Prepare():
            return {"phase": Phase.PREPARING, "reason": None, "deaths": 0, "data": None}
        case Join():
            counted = {"counts": decision.counts, "platform": decision.platform, "data": decision.data}
            return {"phase": Phase.IDLE, "pending": None, "deaths": 0, **counted}
        case Recount():
            return {"counts": decision.counts, "platform": decision.platform}
        case Decline():
            return {"phase": Phase.DECLINED, "reason": decision.reason, "pending": None}
        case Hold():
            return {"pending": decision.raw}
        case Drop() | Deliver():
            return {"phase": Phase.IDLE, **_NO_TASK}
        case TakeRound():
            taken = {"phase": Phase.FETCHING, "round": decision.round, "attempt": 1}
            return {**_NO_TASK, **taken, "start": decision.raw, "reason": None}
        case TakeEvaluation():
            taken = {"phase": Phase.EVALUATING, "round": decision.round, "attempt": 1, "scores": {}}
            return {**_NO_TASK, **taken, "start": decision.raw, "reason": None}
        case Fetched():
            phase = Phase.TRAINING if job.phase is Phase.FETCHING else job.phase
            return {"phase": phase, "fetched": (*job.fetched, decision.stem)}
        case Keep():
            return {"phase": Phase.SENDING, "update": decision.trained, "sealed": False}
        case Seal():
            return {"sealed": True}
        case Redo():
            again = {"phase": Phase.FETCHING, "attempt": job.attempt + 1}
            return {**_NO_TASK, **again, "start": job.start}
        case GiveUp():
            phase = Phase.REPORTED if job.phase is Phase.EVALUATING else Phase.IDLE
            return {"phase": phase, "round": decision.round, **_NO_TASK, "reason": decision.reason}
        case KeepScores():
            digest = next(one.model_digest for one in job.evaluation_start.models if one.label == decision.label)
            scores = ModelScores(model_digest=digest, splits=decision.splits)
            return {"scores": {**job.scores, decision.label: scores}}
        case Report():
            return {"phase": Phase.REPORTED, **_NO_TASK}
        case End():
            return {"phase": Phase.ENDED, "pending": None, "reason": decision.reason, **_NO_TASK}
        case Suspend():
            return {"suspended": decision.suspended}
        case Recover():
            return _recovered(job)
    return {}


def _recovered(job: Job) -> dict[str, Any]:
    """Training begins again from the same model; whether it is still there, fetching finds out."""
    if job.phase in (Phase.FETCHING, Phase.TRAINING):
        return {"phase": Phase.FETCHING, "fetched": ()}
    return {"fetched": ()} if job.phase is Phase.EVALUATING else {}


def _released(agenda: Agenda, name: str) -> Agenda:
    """Neither in the slot nor in its queue."""
    running = None if agenda.running == name else agenda.running
    return replace(agenda, running=running, queue=tuple(one for one in agenda.queue if one != name))


def _with(agenda: Agenda, job: Job, *, queue: bool = True) -> Agenda:
    """The agenda with this job as it is now, queued where it is ready for the slot."""
    name = job.experiment
    agenda = replace(agenda, jobs={**agenda.jobs, name: job})
    waits = queue and _ready(job) and agenda.running != name and name not in agenda.queue
    return replace(agenda, queue=(*agenda.queue, name)) if waits else agenda


def _ready(job: Job) -> bool:
    """Whether the job could use the slot now: its models are at hand."""
    if job.phase is Phase.EVALUATING:
        models = (one.transfer for one in job.evaluation_start.models)
        wanted = {TransferKey(job.experiment, one.round, COORDINATOR, one.attempt).stem for one in models}
        return wanted <= set(job.fetched)
    return job.phase in NEEDS_SLOT
