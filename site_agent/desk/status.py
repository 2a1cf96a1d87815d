"""What `konsil site status`, the liveness event and the service manager show of the agent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from types import MappingProxyType
from typing import Any

from messages.bus.base import Pending
from messages.kinds import Progress
from messages.reasons import advise_on
from site_agent.core.agenda import list_waiting, waits_for_hours
from site_agent.core.jobs import Agenda, Job, Phase
from site_agent.core.permissions import Floors
from site_agent.desk.read_file import ReadFile
from site_agent.desk.secure_words import say_secure_job
from site_agent.training.protocol import CheckpointEvent

_NONE: Mapping[str, CheckpointEvent] = MappingProxyType({})

_WORDS = {
    Phase.PREPARING: "preparing",
    Phase.MEASURING: "preparing",
    Phase.TRAINING: "training",
    Phase.EVALUATING: "evaluating",
    Phase.MASKING: "sending",
    Phase.SENDING: "sending",
    Phase.FETCHING: "fetching",
}

_SHOWN = {
    Phase.PREPARING: ("preparing",),
    Phase.MEASURING: ("preparing",),
    Phase.FETCHING: ("fetching",),
    Phase.TRAINING: ("training", "validating"),
    Phase.SENDING: ("sending",),
    Phase.EVALUATING: ("fetching", "testing", "validating"),
}
"""What a phase's progress is called."""


def state_word(agenda: Agenda) -> str:
    """idle, preparing, fetching, training, evaluating, sending, paused, draining or outside-hours."""
    if agenda.draining:
        return "draining"
    if agenda.running is not None:
        return _WORDS.get(agenda.phase_of(agenda.running), "idle")
    phases = {job.phase for job in agenda.jobs.values()}
    for phase in (Phase.SENDING, Phase.MASKING, Phase.FETCHING):
        if phase in phases:
            return _WORDS[phase]
    if waits_for_hours(agenda):
        return "outside-hours"
    return "paused" if agenda.paused else "idle"


def resumed_at(job: Job, resumed: CheckpointEvent | None) -> int | None:
    """The optimiser step at which the round in training went on from its checkpoint; None: it did not."""
    if resumed is None or job.phase is not Phase.TRAINING or resumed.round != job.round:
        return None
    return resumed.step


def status_line(
    agenda: Agenda, progress: Mapping[str, Progress], broker: str, resumed: Mapping[str, CheckpointEvent] = _NONE
) -> str:
    """One line for the service manager (STATUS= of sd_notify(3)): what it works on, round, how far, the broker."""
    at_work = [name for name, job in agenda.jobs.items() if job.phase in _SHOWN]
    name = agenda.running if agenda.running is not None else next(iter(at_work), None)
    words = state_word(agenda)
    if name is not None and agenda.phase_of(name) in _SHOWN:
        job, shown = agenda.jobs[name], progress.get(name)
        in_round = job.phase in (Phase.FETCHING, Phase.TRAINING, Phase.SENDING)
        place = f"round {job.round} of {job.file['rounds']['count']}, " if in_round else ""
        # the latest progress may still be of what came before
        fits = shown is not None and shown.phase in _SHOWN[job.phase] and words != "outside-hours"
        words = f"{name}: {place}" + (f"{shown.phase} {shown.done} of {shown.total}" if shown and fits else words)
        if (step := resumed_at(job, resumed.get(name))) is not None:
            words += f" (resumed at step {step})"
    waiting = f", {len(agenda.queue)} waiting" if agenda.queue else ""
    return f"{words}{waiting}; broker {broker}"


def status_of(
    agenda: Agenda,
    *,
    site: str,
    broker: str,
    progress: Mapping[str, Progress],
    refusals: Mapping[str, int],
    waiting: int,
    pids: Mapping[str, int],
    used_bytes: int,
    bytes_down: int,
    bytes_up: int,
    pending: Pending = Pending(),
    resumed: Mapping[str, CheckpointEvent] = _NONE,
    opens_at: datetime | None = None,
    file: ReadFile | None = None,
    lists: Sequence[Mapping[str, Any]] = (),
    log: Mapping[str, Any] | None = None,
    unboxed: Sequence[str] = (),
    term_jumps: Sequence[Sequence[int]] = (),
    privacy: Sequence[str] = (),
    floors: Floors = Floors(),
) -> dict[str, Any]:
    """The agent's state as plain types; `bytes_down` and `bytes_up` count tensors' bytes since the agent started.
    `waiting`: events without a receipt.
    `opens_at`: when the operator's hours begin, local time; None within them. `file`: the site.toml that was read.
    `lists`: how the lists of the withdrawn stand (`data.lists`). `log`: what was seen of the coordinator's log.
    `floors`: the policy's, for what secure rounds mean here. `privacy`: what ledgers with a budget have left, as lines.
    `unboxed`: trainers that run without a sandbox. `term_jumps`: terms that did not follow, with the one before."""
    experiments, queue = [], list_waiting(agenda)
    for name, job in agenda.jobs.items():
        shown = progress.get(name)
        place = queue.index(name) + 1 if name in queue else None
        experiments.append(
            {
                "experiment": name,
                "researcher": job.researcher,
                "phase": job.phase.value,
                "round": job.round,
                "place_in_queue": place,
                "has_slot": agenda.running == name,
                "reason": job.reason,
                "advice": advise_on(job.reason, waits=job.pending is not None) if job.reason else None,
                "paused_by_researcher": job.suspended,
                "cases": job.counts.model_dump(mode="json") if job.counts else None,
                "progress": shown.model_dump(mode="json", exclude_none=True) if shown else None,
                "resumed_at_step": resumed_at(job, resumed.get(name)),
                "secure": say_secure_job(floors, job),
                "trainer_pid": pids.get(name),
            }
        )
    return {
        "site": site,
        "file": None if file is None else asdict(file),
        "state": state_word(agenda),
        "paused": agenda.paused,
        "draining": agenda.draining,
        "within_hours": agenda.open,
        "opens_at": None if agenda.open or opens_at is None else opens_at.isoformat(timespec="minutes"),
        "broker": broker,
        "unconfirmed": {
            "messages": pending.messages,
            "bytes": pending.bytes,
            "seconds": round(pending.waited, 1),
            "blocked": pending.blocked,
        },
        "log": log,
        "running": agenda.running,
        "queue": queue,
        "experiments": experiments,
        "unreceipted": waiting,
        "refused_messages": dict(refusals),
        "disk_used_bytes": used_bytes,
        "bytes_down": bytes_down,
        "bytes_up": bytes_up,
        "lists": [dict(one) for one in lists],
        "unboxed_trainers": list(unboxed),
        "term_jumps": [list(one) for one in term_jumps],
        "privacy": list(privacy),
    }
