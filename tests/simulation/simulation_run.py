"""One schedule: run, judged, and told as an outcome."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch
from uuid import UUID

import structlog
from simulation_drive import SimulationDriver
from simulation_judge import Rounds, judge_files, judge_journal
from simulation_plan import Act, Schedule, draw_schedule
from simulation_trainers import write_durably
from simulation_world import COORDINATOR, SimulatedWorld, make_ring, usage_in

from coordinator.core.state import ExperimentState
from coordinator.loop import timers
from coordinator.work import aggregate, pool
from messages.ground import crash
from messages.ground.errors import KonsilError
from messages.ground.virtual.clock import VirtualClock
from site_agent import service as site_service
from site_agent.training import null

SHARED_MEMORY = Path("/dev/shm")


@dataclass
class SimulationOutcome:
    """What became of a schedule, as plain types."""

    seed: int
    sites: int = 0
    ended: str = ""
    violations: list[str] = field(default_factory=list)
    struck: list[list[str]] = field(default_factory=list)
    """Each fault that struck: its kind, and the stage that the experiment was in."""
    rounds: int = 0
    compared: int = 0
    masked: int = 0
    """Rounds with a sum of masked updates. `void`: secure rounds without one."""
    void: int = 0
    signed: bool = False
    starts: int = 0
    seconds: float = 0.0
    """Virtual ones."""
    cpu: float = 0.0
    trace: str = ""
    story: list[str] = field(default_factory=list)


def run_seed(seed: int) -> dict[str, Any]:
    """The outcome of a seed as plain types. Never raises."""
    return asdict(run_schedule(draw_schedule(seed)))


def run_schedule(schedule: Schedule, *, tell: bool = False) -> SimulationOutcome:
    """Run a schedule and judge it. What raises in the rig itself is a violation too."""
    outcome = SimulationOutcome(schedule.seed, len(schedule.sites))
    began = time.process_time()
    clock = VirtualClock(seed=schedule.seed)
    folder = Path(mkdtemp(prefix="konsil-simulation-", dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    worlds: list[SimulatedWorld] = []
    ring = make_ring(folder, schedule)

    def body() -> None:
        worlds.append(world := SimulatedWorld(folder, clock, schedule, ring, tell=tell))
        driver = SimulationDriver(world, outcome.struck)
        try:
            outcome.ended = driver.drive()
        finally:
            state = world.state()
            world.close()
            outcome.seconds = clock.monotonic() - 86400.0
            _judge(world, state, outcome)
            world.release_dead()

    try:
        with patched(schedule.seed, lambda: worlds[0]):
            clock.run(body)
    except Exception as error:  # noqa: BLE001 (the others are still run)
        outcome.violations.append(f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for world in worlds:
        outcome.violations += world.watch.violations
        outcome.story = world.watch.story or []
        outcome.trace = world.watch.trace if not outcome.trace else outcome.trace
        outcome.starts = sum(machine.starts for machine in world.machines.values())
    outcome.cpu = time.process_time() - began
    return outcome


def _judge(world: SimulatedWorld, state: ExperimentState | None, outcome: SimulationOutcome) -> None:
    watch, schedule = world.watch, world.schedule
    outcome.trace = watch.trace
    watch.judge_numbers()
    rubbish = any(act == Act.RUBBISH for act, _stage in outcome.struck)
    try:
        rounds = judge_journal(world.folder / COORDINATOR, schedule, state, watch, rubbish=rubbish)
    except (KonsilError, sqlite3.Error, OSError) as error:
        watch.fail(f"the journal cannot be read: {error}")
        rounds = Rounds()
    judge_files(world.folder, schedule, state, watch)
    outcome.rounds, outcome.compared = len(rounds.contributors), rounds.compared
    outcome.signed, outcome.void = schedule.signed, rounds.void
    outcome.masked = outcome.rounds - rounds.void if schedule.masks else 0


class _Defects:
    """Takes what services log of defects; all else is dropped early."""

    def __init__(self, world: Callable[[], SimulatedWorld]) -> None:
        self._world = world

    def __call__(self, _logger: Any, level: str, event: dict[str, Any]) -> Any:
        error = event.get("exc_info")
        if level == "critical" or error:
            found = sys.exc_info()[1]
            self._world().watch.fail(f"log: {event['event']} {type(found).__name__ if found else ''} {found or ''}")
        raise structlog.DropEvent


class _NoDoor:
    """Instead of the agent's control socket."""

    def __init__(self, *_given: Any) -> None: ...

    def close(self) -> None: ...


@contextmanager
def patched(seed: int, world: Callable[[], SimulatedWorld]) -> Iterator[None]:
    """Steps, long work, disks, chance and doors are the world's."""
    numbers = iter(range(1, 2**31))

    def slowly(work: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            world().do_work(work)
            return original(*given, **more)

        return run

    def draw_bytes(size: int | None = None) -> bytes:
        return (seed % 2**32 * 2**32 + next(numbers)).to_bytes(size or 32, "big")

    def note_move(source: Any, target: Any, **more: Any) -> None:
        world().watch.note("moved", os.path.basename(target))  # the source may hold the number of this process
        move(source, target, **more)

    def note_sync(descriptor: int) -> None:
        world().disk.note_sync(descriptor)
        world().watch.note("synced")

    move = os.replace
    before = structlog.get_config()
    with ExitStack() as patches:
        for where, name, instead in (
            (crash, "pass_step", lambda step: world().passed(step)),
            (shutil, "disk_usage", usage_in(world)),
            (pool, "average", slowly("average", pool.average)),
            (pool, "is_finite", slowly("verify", pool.is_finite)),
            (pool, "measure_update", slowly("verify", pool.measure_update)),
            (aggregate.os, "cpu_count", lambda: 1),
            (null, "write_update", write_durably(null.write_update)),
            (site_service, "ControlServer", _NoDoor),
            (timers, "uuid4", lambda: UUID(bytes=draw_bytes(16))),
            (os, "replace", note_move),
            (os, "fsync", note_sync),
            (os, "fdatasync", note_sync),
        ):
            patches.enter_context(patch.object(where, name, instead))
        patches.enter_context(patch("secrets.token_bytes", draw_bytes))
        structlog.configure(
            processors=[_Defects(world)], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
        )
        try:
            yield
        finally:
            structlog.configure(**before)
