"""Logs for tests: entries of runs of the state machine, linked as a journal links them, and logs that were changed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from machine_run import Run
from places import ROOT

from coordinator.record.journal import STEP
from coordinator.record.recovery import step_body
from coordinator.record.replay import replay
from messages import chain, codec
from messages.chain import Entry

AUDIT = ROOT / "tests" / "audit" / "data"


def written(*runs: Run) -> list[Entry]:
    """Entries of these runs, one after the other, as a journal holds them."""
    return linked(
        ("none" if run.state is None else "exp-1", step_body(given, decided))
        for run in runs
        for given, decided in run.steps
        if decided
    )


def linked(bodies: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Entry]:
    last: dict[str, Entry] = {}
    made: list[Entry] = []
    for number, (name, body) in enumerate(bodies, 1):
        previous = last.get(name)
        last[name] = Entry(
            number,
            previous.index + 1 if previous else 1,
            name,
            body["input"]["time"],
            STEP,
            codec.pack(body),
            previous.hash if previous else chain.ZERO,
            made[-1].hash if made else chain.ZERO,
        ).with_hash()
        made.append(last[name])
    return made


def changed(entries: Iterable[Entry], change: Callable[[dict[str, Any]], Any]) -> list[Entry]:
    """The same log with other bodies, its chain made anew."""
    bodies = [(one.experiment, codec.unpack(one.body)) for one in entries]
    for _name, body in bodies:
        change(body)
    return linked(bodies)


def problems(entries: Iterable[Entry]) -> list[str]:
    return [step.problem for step in replay(entries) if not step.agrees]


def old_state(folder: Path) -> Path:
    """A coordinator's state folder as commit 58c5dea left it, in mid-experiment."""
    with zipfile.ZipFile(AUDIT / "state-58c5dea.zip") as state:
        state.extractall(folder)
    return folder
