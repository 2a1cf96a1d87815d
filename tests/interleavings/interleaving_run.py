"""One interleaving from its seed, and the judgement: nobody died, nothing hangs, the bits are those of a calm run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from coordinator_kit import SITES
from interleaving_plan import COORDINATOR, WORDS, Act, Anchor, Fault, Plan, calm_plan, draw_plan
from interleaving_world import NAME, World, patched
from structlog.testing import capture_logs

from coordinator.core.decisions import RoundCompleted
from coordinator.core.state import ENDED, ExperimentState, Phase
from coordinator.record.journal import ASIDE, STEP, open_readonly
from coordinator.record.recovery import read_step
from coordinator.record.replay import replay
from messages import kinds
from messages.ground.virtual.clock import VirtualClock
from site_agent.core.jobs import OVER

LOOK = 0.25
"""Seconds between two looks at where the experiment is."""
STANDS = 90.0
"""Seconds in which nothing of the plan comes: then the next fault strikes wherever the experiment is."""
SETTLES = 4000.0
"""Seconds within which all is over once nothing happens any more."""

History = tuple[frozenset[str], ...]


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    plan: list[str]
    ended: str = ""
    failures: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    """Each fault with where the experiment was then."""
    rounds: list[list[str]] = field(default_factory=list)
    """Contributors of each round."""
    seconds: float = 0.0
    starts: int = 0
    trace: str = ""


def try_seed(seed: int) -> Outcome:
    """Run the interleaving of a seed and judge it."""
    return run_plan(draw_plan(seed))[0]


def run_seed(seed: int) -> dict[str, Any]:
    """The outcome of a seed as plain types, with the CPU seconds that it took. Never raises."""
    began = time.process_time()
    try:
        found = asdict(try_seed(seed))
    except Exception as error:  # noqa: BLE001 (the others are still run)
        found = asdict(Outcome(seed, [], failures=[f"{type(error).__name__}: {error}"]))
    return found | {"cpu": time.process_time() - began}


@cache
def calm_digests(history: History) -> tuple[str, ...]:
    """The models of a run to which nothing happens, in which these sites contribute to its rounds."""
    outcome, digests = run_plan(calm_plan(history))
    assert not outcome.failures, outcome
    assert outcome.rounds[: len(history)] == [sorted(one) for one in history], outcome
    return digests


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="konsil-interleaving-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_plan(plan: Plan) -> tuple[Outcome, tuple[str, ...]]:
    """What became of a plan, and its rounds' models."""
    outcome = Outcome(plan.seed, [str(fault) for fault in plan.faults])
    clock = VirtualClock(seed=plan.seed)
    with _scratch() as folder, capture_logs() as logs:
        worlds: list[World] = []
        digests: list[str] = []

        def body() -> None:
            world = World(folder, clock, plan)
            worlds.append(world)
            began = clock.monotonic()
            try:
                world.start()
                world.begin()
                Driver(world, outcome).drive()
                digests.extend(_list_rounds(folder, outcome))
            finally:
                outcome.seconds, outcome.starts = clock.monotonic() - began, world.starts
                world.close()
                outcome.failures += world.deaths

        with patched(lambda: worlds[0]):
            try:
                clock.run(body)
            except RuntimeError as error:  # time stands still
                outcome.failures.append(str(error))
        outcome.trace = clock.trace
        defects = (one for one in logs if one["log_level"] == "critical" or "exc_info" in one)
        outcome.failures += [f"log: {one['event']} {one.get('error', '')}" for one in defects]
        if not outcome.failures:
            _judge_journal(folder, outcome)
    if plan.faults and not outcome.failures:
        history = tuple(frozenset(one) for one in outcome.rounds)
        if history and tuple(digests) != calm_digests(history)[: len(history)]:
            outcome.failures.append(f"other bits than a calm run with {outcome.rounds}")
    return outcome, tuple(digests)


def _list_rounds(folder: Path, outcome: Outcome) -> Iterator[str]:
    """Digests of the rounds' models, by the journal: a kill may swallow what is announced of a round."""
    for entry in open_readonly(folder / "coordinator"):
        for decision in read_step(entry)[1] if entry.type == STEP else ():
            if isinstance(decision, RoundCompleted):
                outcome.rounds.append(sorted(decision.contributors))
                yield decision.digest


def _judge_journal(folder: Path, outcome: Outcome) -> None:
    entries = list(open_readonly(folder / "coordinator"))
    outcome.failures += ["an input was set aside" for entry in entries if entry.type == ASIDE]
    outcome.failures += [f"replay: {one.problem}" for one in replay(entries) if not one.agrees]


class Driver:
    """Lets the faults of a plan strike, and waits for what the researcher's last word says."""

    def __init__(self, world: World, outcome: Outcome) -> None:
        self._world, self._outcome = world, outcome
        self._reached: dict[Anchor, float] = {}
        self._left = sorted(world.plan.faults, key=lambda one: ([*Anchor].index(one.anchor), one.after))
        self._moved = world.clock.monotonic()
        self._paused = self._aborted = False
        """What the researcher said last, as far as it was said before the end."""
        self._heard_by = 0.0
        """When the coordinator has heard that at the latest; infinity where it was away, or could write nothing."""

    def drive(self) -> None:
        while self._left:
            self._note_reached()
            for fault in self._list_due():
                self._left.remove(fault)
                self._strike(fault)
            self._world.free_due()
            self._world.clock.sleep(LOOK)
        self._settle()

    def _note_reached(self) -> None:
        state = self._world.state()
        place = _place_of(state)
        now = self._world.clock.monotonic()
        for anchor in Anchor:
            if place == anchor and anchor not in self._reached:
                self._reached[anchor] = self._moved = now

    def _list_due(self) -> list[Fault]:
        now = self._world.clock.monotonic()
        due = [
            one for one in self._left if one.anchor in self._reached and now >= self._reached[one.anchor] + one.after
        ]
        if due:
            self._moved = now
        elif now - self._moved > STANDS:
            self._moved = now - STANDS + 5.0
            return self._left[:1]
        return due

    def _strike(self, fault: Fault) -> None:
        state = self._world.state()
        paused = "" if state is None or state.phase is not Phase.PAUSED else f" (paused {state.paused_because or ''})"
        self._outcome.struck.append(f"{fault.act} {fault.where}: {_place_of(state)}{paused}")
        if fault.act in WORDS and not self._is_over():
            self._aborted |= fault.act is Act.ABORT
            self._paused = fault.act is Act.PAUSE if fault.act is not Act.ABORT else self._paused
            busy = state is None or COORDINATOR in self._world.stuck
            self._heard_by = math.inf if busy else self._world.clock.now() + 1.0
        self._world.strike(fault)

    def _is_over(self) -> bool:
        state = self._world.state()
        return state is not None and state.phase in ENDED

    def _settle(self) -> None:
        world, outcome = self._world, self._outcome

        def waits(condition: str, within: float = SETTLES) -> bool:
            def holds() -> bool:
                world.free_due()
                return bool(getattr(self, condition)())

            return world.clock.wait_until(holds, within, every=1.0)

        if self._paused and not self._aborted:
            if not waits("_is_paused_or_over"):
                outcome.failures.append(f"the last word was pause, and it is {self._tell()}")
                return
            world.clock.sleep(60.0)
            if not self._is_paused_or_over():
                outcome.failures.append(f"the last word was pause, and a minute later it is {self._tell()}")
            world.say("experiment-resume", kinds.ExperimentResume())
        if not waits("_is_over"):
            outcome.failures.append(f"it hangs: {self._tell()}")
            return
        state = world.state()
        outcome.ended = "" if state is None else f"{state.phase}{f' ({state.reason})' if state.reason else ''}"
        if state is not None and state.phase is Phase.FAILED:
            outcome.failures.append(f"it failed: {state.reason}")
        if state is not None and state.phase is Phase.ABORTED and not self._aborted:
            outcome.failures.append("it was aborted, and nobody said so")
        if state is not None and state.phase is Phase.COMPLETE and self._aborted and not self._ended_before(state):
            outcome.failures.append("it is complete, and the last word was abort")
        if not waits("_sites_are_done", 900.0):
            outcome.failures.append(f"sites hang: {self._tell_sites()}")

    def _is_paused_or_over(self) -> bool:
        state = self._world.state()
        if state is None:
            return False
        return self._ended_before(state) or (state.phase is Phase.PAUSED and state.paused_because is None)

    def _ended_before(self, state: ExperimentState) -> bool:
        """Whether it ended before the researcher's last word was heard."""
        return state.ended is not None and state.ended <= self._heard_by

    def _sites_are_done(self) -> bool:
        """All know that it is over, and what they said has its receipt."""
        for site in SITES:
            agent = self._world.agent(site)
            if agent is None:
                return False
            job = agent._steps.agenda.job_of(NAME)
            if (job is not None and job.phase not in OVER) or agent.spool.count_waiting():
                return False
        return True

    def _tell(self) -> str:
        state = self._world.state()
        return f"{_place_of(state)}, {None if state is None else (state.phase.value, state.paused_because)}"

    def _tell_sites(self) -> str:
        told = []
        for site in SITES:
            agent = self._world.agent(site)
            job = None if agent is None else agent._steps.agenda.job_of(NAME)
            phase = "away" if agent is None else "unknown" if job is None else job.phase.value
            told.append(f"{site} {phase}, {0 if agent is None else agent.spool.count_waiting()} wait")
        return "; ".join(told)


def _place_of(state: ExperimentState | None) -> str:
    """As `Anchor` names it; "away" where the coordinator cannot say."""
    if state is None:
        return "away"
    if state.phase in ENDED:
        return Anchor.COMPLETE
    if state.stage in (Phase.RUNNING, Phase.AGGREGATING):
        return f"{state.stage.value} {state.completed + 1}"
    return state.stage.value
