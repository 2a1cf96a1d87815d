"""What happens to an experiment, and when: drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from coordinator_kit import SITES


class Anchor(StrEnum):
    """From when on a fault's seconds count: the experiment comes to this for the first time."""

    RECRUITING = "recruiting"
    BUILDING = "initialising"
    ROUND_1 = "running 1"
    AGGREGATING_1 = "aggregating 1"
    ROUND_2 = "running 2"
    AGGREGATING_2 = "aggregating 2"
    EVALUATING = "evaluating"
    COMPLETE = "complete"


class Act(StrEnum):
    """What is done. A kill strikes at once, or behind the next decision and before anything of it is done. A full disk
    has no space for models and updates; one without a byte has none for the database either."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    DISK_FULL = "disk-full"
    NO_BYTE = "disk without a byte"
    DISK_FREE = "disk-free"
    KILL = "kill"
    KILL_BEHIND = "kill behind a decision"
    STOP = "stop"


COORDINATOR = "coordinator"
WORDS = (Act.PAUSE, Act.RESUME, Act.ABORT)
_WEIGHTS = {
    Act.PAUSE: 5, Act.RESUME: 4, Act.ABORT: 1, Act.DISK_FULL: 4, Act.NO_BYTE: 2, Act.DISK_FREE: 2, Act.KILL: 2,
    Act.KILL_BEHIND: 3, Act.STOP: 1,
}  # fmt: skip
LASTS = 12.0
"""Seconds within which faults strike after their anchor: about as long as the longest phase of a calm run lasts."""


@dataclass(frozen=True)
class Fault:
    """`where`: the party, for what is done to one. `lasts`: seconds that it stays away, or its disk full."""

    act: Act
    anchor: Anchor
    after: float
    where: str = COORDINATOR
    lasts: float = 0.0

    def __str__(self) -> str:
        whose = "" if self.act in WORDS else f" {self.where}"
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.act}{whose}{lasts}, {self.after:.2f} s into {self.anchor}"


@dataclass(frozen=True)
class Plan:
    """Faults of one run, and how long its parties take for their work."""

    seed: int
    faults: tuple[Fault, ...]
    least_sites: int | str
    trains: dict[tuple[str, int], float]
    works: dict[str, float]


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    faults = [_draw_fault(draw) for _ in range(draw.randint(1, 7))]
    return Plan(
        seed,
        tuple(faults),
        draw.choice(["all", "all", 2]),
        {(site, number): draw.uniform(1.0, 12.0) for site in SITES for number in (1, 2)},
        {work: draw.uniform(0.0, 6.0) for work in ("prepare", "evaluate", "build", "average", "verify")},
    )


def calm_plan(takes_part: tuple[frozenset[str], ...]) -> Plan:
    """A run to which nothing happens, in which these sites take part in its rounds, and all in those behind them."""
    trains = {(site, number): 1.0 for site in SITES for number in (1, 2)}
    trains |= {(site, number): 1e6 for number, sites in enumerate(takes_part, 1) for site in {*SITES} - sites}
    return Plan(0, (), 1, trains, dict.fromkeys(("prepare", "evaluate", "build", "average", "verify"), 0.0))


def _draw_fault(draw: random.Random) -> Fault:
    act = draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    after = draw.choice([0.0, draw.uniform(0.0, 3.0), draw.uniform(0.0, LASTS)])
    where = COORDINATOR if act in WORDS or draw.random() < 0.5 else draw.choice(SITES)
    lasts = draw.choice([0.0, draw.uniform(0.0, 5.0), draw.uniform(0.0, 60.0)])
    return Fault(act, draw.choice(list(Anchor)), after, where, 0.0 if act in WORDS or act is Act.DISK_FREE else lasts)
