"""What `konsil site status`, the liveness event and the service manager show of the agent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from messages.kinds import Progress
from messages.reasons import ADVICE
from site_agent.spool import Waiting
from site_agent.work import Agenda, Phase

_WORDS = {
    Phase.PREPARING: "preparing",
    Phase.TRAINING: "training",
    Phase.EVALUATING: "evaluating",
    Phase.SENDING: "sending",
    Phase.FETCHING: "fetching",
}


def state_word(agenda: Agenda) -> str:
    """idle, preparing, fetching, training, evaluating, sending, paused or draining."""
    if agenda.draining:
        return "draining"
    if agenda.running is not None:
        return _WORDS.get(agenda.phase(agenda.running), "idle")
    phases = {job.phase for job in agenda.jobs.values()}
    for phase in (Phase.SENDING, Phase.FETCHING):
        if phase in phases:
            return _WORDS[phase]
    return "paused" if agenda.paused else "idle"


def status_of(
    agenda: Agenda,
    *,
    site: str,
    broker: str,
    progress: Mapping[str, Progress],
    refusals: Mapping[str, int],
    waiting: Sequence[Waiting],
    pids: Mapping[str, int],
    used_bytes: int,
    bytes_down: int,
    bytes_up: int,
) -> dict[str, Any]:
    """The agent's state as plain types; `bytes_down` and `bytes_up` count tensors' bytes since the agent started."""
    experiments = []
    for name, job in agenda.jobs.items():
        shown = progress.get(name)
        place = agenda.queue.index(name) + 1 if name in agenda.queue else None
        experiments.append(
            {
                "experiment": name,
                "researcher": job.researcher,
                "phase": job.phase.value,
                "round": job.round,
                "place_in_queue": place,
                "has_slot": agenda.running == name,
                "reason": job.reason,
                "advice": ADVICE.get(job.reason) if job.reason else None,
                "paused_by_researcher": job.suspended,
                "cases": job.counts.model_dump(mode="json") if job.counts else None,
                "progress": shown.model_dump(mode="json", exclude_none=True) if shown else None,
                "trainer_pid": pids.get(name),
            }
        )
    return {
        "site": site,
        "state": state_word(agenda),
        "paused": agenda.paused,
        "draining": agenda.draining,
        "within_hours": agenda.open,
        "broker": broker,
        "running": agenda.running,
        "queue": list(agenda.queue),
        "experiments": experiments,
        "unreceipted": len(waiting),
        "refused_messages": dict(refusals),
        "disk_used_bytes": used_bytes,
        "bytes_down": bytes_down,
        "bytes_up": bytes_up,
    }
