"""What a kept format holds, read by the code that is there: made once as `facts.json`, and compared ever after."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from format_rig import read_jobs

from coordinator.core.state import ExperimentState
from coordinator.record.journal import open_readonly
from coordinator.record.recovery import recover_states
from coordinator.record.replay import ReplayStep, replay
from coordinator.work.blobs import Blobs
from messages.chain import Entry


def read_journal_facts(folder: Path) -> dict[str, Any]:
    """Of a coordinator's state folder: how long its journal is, what ends it, and where each experiment is."""
    entries = list(open_readonly(folder))
    return {
        "entries": len(entries),
        "head": entries[-1].hash.hex(),
        "types": {kind: sum(entry.type == kind for entry in entries) for kind in ("step", "set-aside", "term")},
        "experiments": {name: _state_facts(state) for name, state in sorted(recover_states(entries).items())},
    }


def _state_facts(state: ExperimentState) -> dict[str, Any]:
    open_round = state.round
    return {
        "digest": state.digest,
        "phase": str(state.phase),
        "reason": None if state.reason is None else str(state.reason),
        "completed": state.completed,
        "models": {str(number): one.digest for number, one in sorted(state.models.items())},
        "yields": None if state.outcome is None else [state.outcome.label, state.outcome.rounds],
        "round": None if open_round is None else [open_round.number, sorted(open_round.reported)],
    }


def replay_folder(folder: Path) -> list[ReplayStep]:
    """Every entry of a coordinator's state folder, replayed against the blobs beside it, where there are some."""
    blobs = folder / "blobs"
    return list(replay(open_readonly(folder), Blobs(blobs) if blobs.is_dir() else None))


def read_replay_facts(steps: Sequence[ReplayStep]) -> dict[str, Any]:
    """Of replayed entries: how each round's aggregate was checked, by experiment, and which model it made."""
    checked: dict[str, list[list[Any]]] = {}
    for step in steps:
        if (one := step.aggregate) is not None:
            checked.setdefault(step.entry.experiment, []).append([one.round, str(one.status), one.model_digest])
    return checked


def read_log_facts(entries: Sequence[Entry]) -> dict[str, Any]:
    """Of an exported log."""
    return {"experiment": entries[0].experiment, "entries": len(entries), "head": entries[-1].hash.hex()}


def read_site_facts(state: Path, site: str) -> dict[str, Any]:
    """Of a site's state folder, whose agent is stopped."""
    jobs, waiting, rows = read_jobs(state, site)
    files = [path.name for folder in ("globals", "updates") for path in sorted((state / folder).iterdir())]
    return {
        "jobs": {
            name: {"phase": str(job.phase), "round": job.round, "attempt": job.attempt, "digest": job.digest}
            for name, job in sorted(jobs.items())
        },
        "waiting": waiting,
        "rows": rows,
        "files": files,
        "secret": sha256((state / "secret").read_bytes()).hexdigest(),
    }
