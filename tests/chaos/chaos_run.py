"""Runs schedules and judges each: it ends, with the calm run's bits, its journal replays, and nothing is left."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos_faults import Havoc
from chaos_plan import SITES, Schedule, Shape, plan
from chaos_world import Eye, World, entries, experiment, plain

from coordinator.core.state import ENDED, Phase
from deploy.cli import replay

BATCH = 16
"""Schedules that one world serves: its journal and its broker grow."""
SILENT, WITHIN = 300.0, 900.0
"""An experiment hangs where nothing new comes into the journal for so many seconds, or where it does not end within so
many. The protocol's own waits are 60 s at most (docs/reliability.md); the rest is for a loaded machine."""
TIDY_WITHIN = 240.0
Say = Callable[[str], None]


@dataclass
class Result:
    """What became of one schedule. `problems` is empty where all is well."""

    number: int
    torch: bool
    everybody: bool
    faults: list[str]
    fired: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    compared: bool = False
    mismatch: bool = False
    hang: bool = False
    orphans: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    disagrees: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    left_out: dict[int, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    words: dict[str, list[str]] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether anything is wrong."""
        return bool(
            self.mismatch or self.hang or self.orphans or self.leaks or self.files or self.disagrees or self.other
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Runner:
    """Runs schedules one after the other, each batch in a world of its own.

    Args:
        folder: for the worlds; removed as they end, but for those of failed schedules where `keep`.
    """

    def __init__(self, seed: int, folder: Path, say: Say, *, keep: bool = False) -> None:
        self._seed, self._folder, self._say, self._keep = seed, folder, say, keep
        self._calm: dict[Shape, str] = {}
        self._worlds = 0
        self._tag = 0

    def run(self, numbers: Iterable[int], *, torch: bool, tell: Callable[[Result], None]) -> None:
        """Run these schedules."""
        waiting = [plan(self._seed, number, torch=torch) for number in numbers]
        while waiting:
            batch, waiting = waiting[:BATCH], waiting[BATCH:]
            done = self._batch(batch, torch=torch, tell=tell)
            waiting = batch[done:] + waiting

    def _batch(self, batch: list[Schedule], *, torch: bool, tell: Callable[[Result], None]) -> int:
        """How many were done: after a failure the rest gets a fresh world."""
        self._worlds += 1
        world = World(self._folder / f"world-{self._worlds}", torch=torch)
        done, failed = 0, False
        last: Result | None = None
        try:
            world.start()
            for schedule in batch:
                self._know(world, schedule.shape)
                result = self.judge(world, schedule)
                done += 1
                failed = result.failed
                if done < len(batch) and not failed:
                    tell(result)
                    continue
                last = result
                break
        finally:
            outlived = world.close()
            if last is not None:
                last.orphans += outlived
                tell(last)
            if not (failed and self._keep):
                shutil.rmtree(self._folder / f"world-{self._worlds}", ignore_errors=True)
        return done

    def _know(self, world: World, shape: Shape) -> None:
        """The calm run's digest of this shape."""
        if shape in self._calm:
            return
        calm = Schedule(-1, shape, True, ())
        result, eye = self._drive(world, calm)
        if result.failed or len(eye.digests) != shape.rounds:
            raise RuntimeError(f"the calm run of {shape} failed: {result.plain()}")
        self._calm[shape] = eye.digests[shape.rounds]

    def judge(self, world: World, schedule: Schedule) -> Result:
        """Run one schedule and compare."""
        result, eye = self._drive(world, schedule)
        if result.hang or eye.state is None or eye.state.phase is not Phase.COMPLETE:
            return result
        full = len(eye.contributors) == schedule.shape.rounds and all(
            several == tuple(sorted(SITES)) for several in eye.contributors.values()
        )
        result.left_out = {
            number: sorted(set(SITES) - set(several))
            for number, several in eye.contributors.items()
            if set(several) != set(SITES)
        }
        if full:
            result.compared = True
            result.mismatch = eye.digests.get(schedule.shape.rounds) != self._calm[schedule.shape]
        elif schedule.everybody:
            result.other.append(f"quorum is all, and a round closed without {result.left_out}")
        return result

    def _drive(self, world: World, schedule: Schedule) -> tuple[Result, Eye]:
        began = time.monotonic()
        self._tag += 1
        identity = f"chaos-{self._tag}-{max(schedule.number, 0)}"
        result = Result(
            schedule.number, schedule.shape.torch, schedule.everybody, [plain(fault) for fault in schedule.faults]
        )
        eye, havoc = world.eye(identity), Havoc(world, schedule)
        one = experiment(identity, schedule.shape, everybody=schedule.everybody)
        havoc.arm()
        world.publish(one)
        begun, heard, index, look_at = False, began, 0, 0.0
        state = None
        while True:
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + 0.1
                state = eye.look()
                if eye.index != index:
                    index, heard = eye.index, time.monotonic()
            if state is not None and not begun:
                begun = True
                havoc.begin()
            havoc.turn()
            if state is not None and state.phase in ENDED:
                break
            if time.monotonic() > min(heard + SILENT, began + WITHIN):
                result.hang = True
                break
            time.sleep(0.02)
        havoc.end()
        result.rounds = len(eye.digests)
        if eye.state is not None and not result.hang and eye.state.phase is not Phase.COMPLETE:
            result.other.append(f"the experiment ended {eye.state.phase.value} ({eye.state.reason})")
        if not result.hang:
            self._tidy(world, havoc, identity, result)
            self._replay(world, identity, result)
        result.other += havoc.unexpected
        result.fired = dict(+havoc.fired)
        if result.failed:
            result.words = world.words() | {"state": [_tell(eye)]}
        result.seconds = round(time.monotonic() - began, 1)
        return result, eye

    def _tidy(self, world: World, havoc: Havoc, identity: str, result: Result) -> None:
        """Wait until all is mended and nothing is left."""
        end = time.monotonic() + TIDY_WITHIN
        while True:
            havoc.turn()
            if havoc.calm:
                for proxy in world.proxies.values():
                    proxy.forget()
                left = (world.strays(), world.connections() + world.streams(), world.files(identity))
                if not any(left):
                    return
                result.orphans, result.leaks, result.files = left
            if time.monotonic() > end:
                if not havoc.calm:
                    result.other.append(f"not mended within {TIDY_WITHIN:.0f} s")
                return
            time.sleep(0.2)
            result.orphans, result.leaks, result.files = [], [], []

    def _replay(self, world: World, identity: str, result: Result) -> None:
        listed = entries(world.layout.coordinator / "journal.sqlite", identity)
        verdict = replay.replay_log(listed, world.layout.coordinator / "blobs", None)
        if not verdict.agrees:
            result.disagrees = [f"{one['entry']}: {one['what']}" for one in verdict.wrong] or ["no entry"]
        if verdict.count_rounds("recomputed") != result.rounds:
            result.disagrees.append(f"of {result.rounds} rounds {verdict.count_rounds('recomputed')} were recomputed")


def _tell(eye: Eye) -> str:
    state = eye.state
    if state is None:
        return "never accepted"
    parts = {} if state.round is None else {site: str(part) for site, part in state.round.parts.items()}
    return f"{state.phase.value}, {state.completed} rounds, contributors {eye.contributors}, parts {parts}"


def counted(results: Iterable[Result]) -> dict[str, Any]:
    """The summary of a run."""
    done = list(results)
    kinds: Counter[str] = Counter()
    for one in done:
        kinds.update(one.fired)
    return {
        "schedules": len(done),
        "torch": sum(one.torch for one in done),
        "everybody": sum(one.everybody for one in done),
        "compared": sum(one.compared for one in done),
        "faults": sum(kinds.values()),
        "rounds": sum(one.rounds for one in done),
        "digest_mismatches": sum(one.mismatch for one in done),
        "hangs": sum(one.hang for one in done),
        "orphans": sum(len(one.orphans) for one in done),
        "leaks": sum(len(one.leaks) for one in done),
        "files_left": sum(len(one.files) for one in done),
        "replays_that_disagree": sum(bool(one.disagrees) for one in done),
        "other": sum(len(one.other) for one in done),
        "by_kind": dict(sorted(kinds.items())),
    }
