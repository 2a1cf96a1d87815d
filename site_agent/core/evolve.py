"""How a decision changes the agenda. Pure; `site_agent.core.agenda` decides, this applies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from messages.ground.fairness import note_turn
from messages.kinds import ModelScores
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey
from site_agent.core.decisions import (
    Begin,
    Configure,
    Decision,
    Decline,
    Deliver,
    Drop,
    End,
    Fetched,
    GiveUp,
    Heed,
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
    TellStatistics,
)
from site_agent.core.jobs import NEEDS_SLOT, Agenda, Job, Phase, SaidBefore, event_of, must_mask
from site_agent.core.secure import changes as secure
from site_agent.core.secure.decisions import LeaveSecure, TakeMail, TakeStep, TellSecure, TryAgain
from site_agent.core.secure.heard import make_part
from site_agent.core.steps import STEPS, models_of

_NO_TASK: dict[str, Any] = {
    "start": None, "update": None, "sealed": False, "fetched": (), "deaths": 0, "trained": None,
}  # fmt: skip
_BESIDE = (
    Recount, Hold, Suspend, KeepScores, Configure, TryAgain, TakeStep, TakeMail, TellSecure, LeaveSecure,
)  # fmt: skip
"""What changes nothing for slot and queue."""


def fold_decisions(agenda: Agenda, decided: Iterable[Decision]) -> Agenda:
    """The agenda after decisions, one after the other."""
    for decision in decided:
        agenda = evolve(agenda, decision)
    return agenda


def evolve(agenda: Agenda, decision: Decision) -> Agenda:
    """The agenda after a decision."""
    if isinstance(decision, Ignore | Resend):
        return agenda
    if isinstance(decision, Heed):
        return replace(agenda, said=decision.said, jobs=_bar_rounds(agenda.jobs, decision.said))
    if isinstance(decision, Switch):
        gone = {
            Reason.SITE_PAUSED: not decision.paused,
            Reason.SITE_DRAINING: not decision.draining,
            Reason.OUTSIDE_HOURS: decision.open,
        }
        told = {name: _without_reason(job, gone) for name, job in agenda.jobs.items()}
        return replace(agenda, jobs=told, paused=decision.paused, draining=decision.draining, open=decision.open)
    name = decision.experiment
    if isinstance(decision, Invite):
        made = _bar_rounds({name: _make_job(decision)}, agenda.said)
        return _with_job(agenda, made[name])
    job = agenda.jobs[name]
    if isinstance(decision, Begin):
        served = note_turn(agenda.served, job.researcher)
        return replace(agenda, running=name, served=served, queue=tuple(one for one in agenda.queue if one != name))
    if isinstance(decision, Retry):
        return _with_job(_release_slot(agenda, name), job.model_copy(update={"deaths": job.deaths + 1}))
    changed = job.model_copy(update=_CHANGES[type(decision)](job, decision))
    if isinstance(decision, TakeRound | Recover | Redo) and changed.phase is Phase.FETCHING:
        least = agenda.attempt_above(name, changed.round)
        changed = changed.model_copy(update={"attempt": max(changed.attempt, least)})
    if isinstance(decision, _BESIDE) or (
        isinstance(decision, Fetched) and changed.phase is job.phase and agenda.running == name
    ):
        return _with_job(agenda, changed, queue=False)
    if isinstance(decision, Fetched):
        return _with_job(agenda, changed)
    return _with_job(_release_slot(agenda, name), changed)


def _bar_rounds(jobs: Mapping[str, Job], said: Mapping[str, SaidBefore]) -> dict[str, Job]:
    """The jobs once the disk is known to be older than what was heard: no secure step in rounds that were open then."""
    barred = {name: max(job.barred, said[name].round) if name in said else job.barred for name, job in jobs.items()}
    return {
        name: job if job.barred == barred[name] else job.model_copy(update={"barred": barred[name]})
        for name, job in jobs.items()
    }


def _without_reason(job: Job, gone: Mapping[Reason, bool]) -> Job:
    """A job that does not name a reason any more that is gone; what waits for that to be taken on keeps it so long."""
    if job.phase is Phase.DECLINED or job.reason is None or not gone.get(job.reason):
        return job
    return job.model_copy(update={"reason": None})


def _make_job(decision: Invite) -> Job:
    phase = Phase.AWAITING if decision.by_hand else Phase.PREPARING
    return Job(
        experiment=decision.experiment,
        digest=decision.digest,
        file=decision.file,
        researcher=decision.researcher,
        phase=phase if decision.refusal is None else Phase.DECLINED,
        reason=decision.refusal,
        signer=decision.signer,
    )


Changes = dict[str, Any]
"""Fields of a job, with their new values."""


def _changes_of_prepare(job: Job, decision: Prepare) -> Changes:
    return {"phase": Phase.PREPARING, "reason": None, "deaths": 0, "data": None}


def _changes_of_join(job: Job, decision: Join) -> Changes:
    counted = {"counts": decision.counts, "platform": decision.platform, "data": decision.data}
    announced = decision.counts.train if must_mask(job) else None
    said = {"privacy": decision.privacy, "announced": announced}
    return {"phase": Phase.IDLE, "pending": None, "deaths": 0, **said, **counted}


def _give_up(job: Job, decision: GiveUp) -> Changes:
    phase = Phase.REPORTED if job.phase is Phase.EVALUATING else Phase.IDLE
    place = {"round": decision.round, "opening": decision.opening}
    again = job.again if (job.round, job.opening) == (decision.round, decision.opening) else 0
    left = {**_NO_TASK, **secure.leave_round(job), "again": again}
    return {"phase": phase, **place, **left, "pending": decision.raw, "reason": decision.reason}


def _changes_of_fetched(job: Job, decision: Fetched) -> Changes:
    phase = Phase.TRAINING if job.phase is Phase.FETCHING else job.phase
    return {"phase": phase, "fetched": (*job.fetched, decision.stem)}


def _changes_of_redo(job: Job, decision: Redo) -> Changes:
    return {**_NO_TASK, "phase": Phase.FETCHING, "attempt": job.attempt + 1, "start": job.start}


def _keep_scores(job: Job, decision: KeepScores) -> Changes:
    digest = job.evaluation_start.digests()[decision.label]
    scores = ModelScores(model_digest=digest, splits=decision.splits)
    return {"scores": {**job.scores, decision.label: scores}}


def _changes_of_take(job: Job, decision: TakeRound) -> Changes:
    """A round that was taken on before is a new attempt: chunks of the earlier one may be out."""
    phase = STEPS[event_of(decision.raw).kind].phase
    again = (job.round, job.opening) == (decision.round, decision.opening)
    attempt = job.attempt + 1 if again or (job.round == decision.round and phase is Phase.FETCHING) else 1
    place = {"phase": phase, "round": decision.round, "opening": decision.opening, "attempt": attempt}
    place["again"] = job.again + 1 if again else 0
    start = None if phase is Phase.IDLE else decision.raw
    part = {**secure.leave_round(job), "secure": make_part(event_of(decision.raw))}
    return {**_NO_TASK, **place, **part, "start": start, "pending": None, "scores": {}, "reason": None}


def _changes_of_recover(job: Job, decision: Recover) -> Changes:
    """Training begins again from the same model; whether it is still there, fetching finds out."""
    if job.phase in (Phase.FETCHING, Phase.TRAINING):
        return {"phase": Phase.FETCHING, "fetched": ()}
    return {"fetched": ()} if job.phase is Phase.EVALUATING else {}


def _changes_of_leave(job: Job, decision: Drop) -> Changes:
    return {"phase": Phase.IDLE, **_NO_TASK, **secure.leave_round(job)}


_CHANGES: dict[type, Callable[[Job, Any], Changes]] = {
    Prepare: _changes_of_prepare,
    Join: _changes_of_join,
    Recount: lambda job, x: {"counts": x.counts, "platform": x.platform},
    Decline: lambda job, x: {"phase": Phase.DECLINED, "reason": x.reason, "pending": None},
    Hold: lambda job, x: {"pending": x.raw},
    Drop: _changes_of_leave,
    Deliver: lambda job, x: {"phase": Phase.IDLE, **_NO_TASK},
    TakeRound: _changes_of_take,
    PassBy: lambda job, x: {
        **secure.leave_round(job),
        "round": x.round,
        "opening": x.opening,
        "again": 0,
        "pending": None,
    },
    Fetched: _changes_of_fetched,
    Keep: lambda job, x: {"phase": Phase.SENDING, "update": x.trained, "sealed": False},
    Seal: lambda job, x: {"sealed": True, **secure.note_announced(job)},
    Redo: _changes_of_redo,
    GiveUp: _give_up,
    KeepScores: _keep_scores,
    Report: lambda job, x: {"phase": Phase.REPORTED, **_NO_TASK},
    TellStatistics: lambda job, x: {"phase": Phase.IDLE, **_NO_TASK},
    Configure: lambda job, x: {"configuration": x.configuration},
    End: lambda job, x: {
        "phase": Phase.ENDED,
        "pending": None,
        "reason": x.reason,
        **_NO_TASK,
        **secure.leave_round(job),
    },
    Suspend: lambda job, x: {"suspended": x.suspended},
    Recover: _changes_of_recover,
    **secure.CHANGES,
}
"""What each decision changes in its job."""


def _release_slot(agenda: Agenda, name: str) -> Agenda:
    """Neither in the slot nor in its queue."""
    running = None if agenda.running == name else agenda.running
    return replace(agenda, running=running, queue=tuple(one for one in agenda.queue if one != name))


def _with_job(agenda: Agenda, job: Job, *, queue: bool = True) -> Agenda:
    """The agenda with this job as it is now, queued where it is ready for the slot."""
    name = job.experiment
    agenda = replace(agenda, jobs={**agenda.jobs, name: job})
    waits = queue and _is_ready(job, agenda.site) and agenda.running != name and name not in agenda.queue
    return replace(agenda, queue=(*agenda.queue, name)) if waits else agenda


def _is_ready(job: Job, site: str) -> bool:
    """Whether the job could use the slot now: its models are at hand."""
    if job.phase is Phase.EVALUATING:
        wanted = {TransferKey(job.experiment, one.round, COORDINATOR, one.attempt).stem for one in models_of(job, site)}
        return wanted <= set(job.fetched)
    return job.phase in NEEDS_SLOT
