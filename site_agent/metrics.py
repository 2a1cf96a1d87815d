"""The agent's figures for Prometheus (docs/metrics.md).

Read by the endpoint's thread: plain numbers and frozen values that the main loop leaves, and the spool through a
connection of its own, so that a scrape never holds the main loop. Labels are words of this program and experiments
that run: bounded, no path, no case, no free text.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from messages.ground.operating.exposition import Reading, make_counter, make_gauge, party_readings, phase_readings
from messages.kinds import Progress
from messages.reasons import Reason
from site_agent.core.jobs import OVER, Agenda, Phase
from site_agent.desk.status import state_word
from site_agent.loop.tally import Tally

STATES = (
    "idle", "preparing", "fetching", "training", "evaluating", "sending", "paused", "draining", "outside-hours",
)  # fmt: skip
_REASONS = frozenset(one.value for one in Reason)


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """What waits in a spool: events without a receipt, their bytes, and bytes of updates; the term last heard."""

    events: int = 0
    event_bytes: int = 0
    update_bytes: int = 0
    term: int = 0


def look_at_spool(state: Path) -> SpoolFigures:
    """Read a spool that the agent has open; what cannot be read counts as nothing."""
    events = size = term = updates = 0
    path = (state / "spool.sqlite").resolve()
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as spool,
    ):
        events, size = spool.execute("SELECT count(*), coalesce(sum(length(raw)), 0) FROM outbox").fetchone()
        (term,) = spool.execute("SELECT coalesce(max(value), 0) FROM meta WHERE key = 'term'").fetchone()
    with contextlib.suppress(OSError), os.scandir(state / "updates") as files:
        for one in files:
            with contextlib.suppress(OSError):  # sent and freed meanwhile
                updates += one.stat(follow_symlinks=False).st_size
    return SpoolFigures(int(events), int(size), updates, int(term))


def make_readings(
    tally: Tally,
    agenda: Agenda,
    *,
    state: Path,
    refusals: Mapping[str, int],
    set_aside: int,
    progress: Mapping[str, Progress],
    bytes_down: int,
    bytes_up: int,
    trainers: int,
    incarnation: int,
    certificate_ends: float | None = None,
) -> Iterator[Reading]:
    """Everything, as it is now. Called by the endpoint's thread with copies."""
    running = {name: job for name, job in agenda.jobs.items() if job.phase not in OVER}
    yield make_counter("konsil_rounds_total", "Rounds that ended here.", tally.rounds, "outcome")
    yield make_counter(
        "konsil_round_failures_total", "Rounds that could not be delivered.", dict(tally.failures), "reason"
    )
    yield make_counter("konsil_checkpoints_total", "Checkpoints of rounds.", dict(tally.checkpoints), "outcome")
    now = state_word(agenda)
    yield make_gauge("konsil_agent_state", "1: what the agent does.", {one: one == now for one in STATES}, "state")
    yield make_gauge("konsil_agent_paused", "1: the operator has paused it.", agenda.paused)
    yield make_gauge("konsil_agent_within_hours", "1: new work may begin at this time of day.", agenda.open)
    by_phase = Counter(job.phase for job in running.values())
    shown = {one.value: by_phase[one] for one in Phase if one not in OVER}
    yield make_gauge("konsil_experiments", "Experiments here now.", shown, "phase")
    yield make_gauge("konsil_experiments_queued", "Experiments that wait for their turn.", len(agenda.queue))
    rounds = {name: job.round for name, job in running.items()}
    yield make_gauge("konsil_experiment_round", "The latest round here.", rounds, "experiment")
    moved = {name: one.done / one.total for name, one in progress.items() if name in running and one.total}
    yield make_gauge("konsil_progress_ratio", "How far the phase in work is.", moved, "experiment")
    spool = look_at_spool(state)
    yield make_gauge("konsil_spool_events", "Events that wait for their receipt.", spool.events)
    waiting = {"events": spool.event_bytes, "updates": spool.update_bytes}
    yield make_gauge("konsil_spool_bytes", "Their bytes, and those of updates.", waiting, "what")
    with contextlib.suppress(OSError):
        disk = os.statvfs(state)
        yield make_gauge("konsil_state_free_bytes", "Free space where the state lies.", disk.f_bavail * disk.f_frsize)
    directions = {"up": bytes_up, "down": bytes_down}
    yield make_counter(
        "konsil_model_bytes_total", "Updates sent (up), models received (down).", directions, "direction"
    )
    refused: Counter[str] = Counter()
    for reason, count in refusals.items():
        refused[reason if reason in _REASONS else "malformed"] += count
    yield make_counter("konsil_messages_refused_total", "Messages that were not used.", dict(refused), "reason")
    yield make_counter("konsil_events_set_aside_total", "Events that could not be handled.", set_aside)
    yield make_gauge("konsil_broker_connected", "1: there is a connection to the broker.", tally.connected)
    yield make_gauge("konsil_broker_blocked", "1: the broker takes no messages now.", tally.blocked)
    yield make_gauge("konsil_trainers", "Training processes.", trainers)
    yield make_gauge("konsil_incarnation", "How often this agent was started.", incarnation)
    yield make_gauge("konsil_term", "The coordinator's term, as last heard.", spool.term)
    yield from party_readings(certificate_ends)
    yield from phase_readings()
