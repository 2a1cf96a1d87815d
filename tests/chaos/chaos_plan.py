"""What is done to a consortium while it trains: schedules of faults, each a pure function of (seed, number).

A schedule is one experiment and one to four faults. One of them strikes at a named step of the protocol, and the
schedules take the steps in turn; the others come at seeded random moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from messages.ground import crash
from messages.names import COORDINATOR

SITES = ("site-a", "site-b", "site-c")
PARTIES = (COORDINATOR, *SITES)
BROKER = "broker"

Kind = Literal[
    "step",
    "kill", "stop", "term",
    "trainer-kill", "trainer-stop", "trainer-term",
    "broker-kill", "broker-restart", "broker-wipe", "broker-stop",
    "line-cut", "line-fin", "line-cut-after", "line-half-open", "line-down", "line-delay", "line-slow", "line-corrupt",
]  # fmt: skip
SERVICE: tuple[Kind, ...] = ("kill", "stop", "term")
TRAINER: tuple[Kind, ...] = ("trainer-kill", "trainer-stop", "trainer-term")
BROKERS: tuple[Kind, ...] = ("broker-kill", "broker-restart", "broker-wipe", "broker-stop")
LINE: tuple[Kind, ...] = (
    "line-cut", "line-fin", "line-cut-after", "line-half-open", "line-down", "line-delay", "line-slow", "line-corrupt",
)  # fmt: skip
DEATHS: tuple[Kind, ...] = ("trainer-kill", "trainer-term")
"""Of a trainer; a second one in the same task makes its site give the round up, by design."""
SMALL_QUORUM_EVERY = 6
"""Of so many schedules one has quorum 2 of 3 (so the others, 83 %, have all)."""
BROKER_EVERY = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done.

    Attributes:
        party: a service, or the site whose trainer or line it is.
        at: seconds after the experiment was accepted. Steps have no time: they strike when they are passed.
        lasts: seconds until what was killed is started again, what was stopped goes on, the line is mended (one that is
            to be cut after so many bytes, or to corrupt one, waits until that came by).
        step, count: the step, and which passing of it.
        bytes: after how many more bytes a line is cut or corrupted.
        way: "up" from the party to the broker, "down" to it.
    """

    kind: Kind
    party: str
    at: float = 0.0
    lasts: float = 0.5
    step: str = ""
    count: int = 1
    bytes: int = 0
    way: Literal["up", "down"] = "up"

    @property
    def name(self) -> str:
        """By which faults are counted: the kind, and of services which one."""
        if self.kind == "step":
            return f"step {self.step}"
        if self.kind in SERVICE:
            return f"{self.kind} {COORDINATOR if self.party == COORDINATOR else 'agent'}"
        return self.kind


@dataclass(frozen=True, slots=True)
class Shape:
    """An experiment but for its name: experiments of one shape end with the same digest if everybody contributed."""

    torch: bool = False
    rounds: int = 3
    codec: str = "float32"
    select: bool = False
    """The model that validation chooses is evaluated beside the last one."""


SHAPES = (Shape(), Shape(codec="bfloat16-difference"), Shape(select=True), Shape(codec="bfloat16", rounds=2))
TORCH = Shape(torch=True, rounds=2)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run. `everybody`: quorum is all; else 2 of 3 with a short grace, and who is left out shows."""

    number: int
    shape: Shape
    everybody: bool
    faults: tuple[Fault, ...]


def is_torch(number: int, schedules: int, torch: int) -> bool:
    """Whether the schedule trains for good; `torch` of `schedules` do, spread evenly."""
    return torch > 0 and (number * torch) // schedules != ((number + 1) * torch) // schedules


def plan(seed: int, number: int, *, torch: bool = False) -> Schedule:
    """The schedule of this number."""
    draw = Random(f"{seed}|{number}|{torch}")
    shape = TORCH if torch else SHAPES[draw.choices(range(len(SHAPES)), weights=(4, 1, 1, 1))[0]]
    everybody = torch or number % SMALL_QUORUM_EVERY != SMALL_QUORUM_EVERY - 1
    span = 14.0 if torch else 6.0
    faults = [_at_step(draw, crash.STEPS[(number + seed) % len(crash.STEPS)])]
    wanted = draw.randint(1, 4)
    if number % BROKER_EVERY == 3:
        faults.append(_broker(draw, BROKERS[number // BROKER_EVERY % len(BROKERS)], span))
    while len(faults) < wanted:
        one = draw.choices((_service, _trainer, _line, _step), weights=(3, 2, 3, 2))[0](draw, span)
        if not _too_much(faults, one):
            faults.append(one)
    return Schedule(number, shape, everybody, tuple(faults))


def _too_much(faults: list[Fault], more: Fault) -> bool:
    return _ends_trainer(more) and any(_ends_trainer(one) and one.party == more.party for one in faults)


def _ends_trainer(fault: Fault) -> bool:
    return fault.kind in DEATHS or fault.step in crash.TRAINER


def _service(draw: Random, span: float) -> Fault:
    kind = draw.choice(SERVICE)
    return Fault(kind, draw.choice(PARTIES), draw.uniform(0, span), draw.uniform(0.2, 4.0 if kind == "stop" else 2.0))


def _trainer(draw: Random, span: float) -> Fault:
    return Fault(draw.choice(TRAINER), draw.choice(SITES), draw.uniform(0, span), draw.uniform(0.5, 3.0))


def _broker(draw: Random, kind: Kind, span: float) -> Fault:
    return Fault(kind, BROKER, draw.uniform(0, span), draw.uniform(0.5, 3.0))


def _line(draw: Random, span: float) -> Fault:
    kind = draw.choice(LINE)
    lasts = draw.uniform(4.0, 14.0) if kind == "line-half-open" else draw.uniform(0.5, 4.0)
    way: tuple[Literal["up", "down"], ...] = ("up", "down")
    return Fault(
        kind, draw.choice(PARTIES), draw.uniform(0, span), lasts,
        bytes=int(10 ** draw.uniform(2, 6)), way=draw.choice(way),
    )  # fmt: skip


def _step(draw: Random, _span: float) -> Fault:
    return _at_step(draw, draw.choice(crash.STEPS))


OFTEN: dict[str, int] = {
    "coordinator:sending-model": 8, "agent:fetching": 8, "agent:sending": 8, "trainer:training": 25,
    "coordinator:joined": 3, "coordinator:round-accepted": 6, "coordinator:weights-ready": 6,
    "coordinator:update-stored": 6, "coordinator:verifying": 6, "coordinator:evaluated": 3,
    "coordinator:aggregating": 2, "coordinator:aggregated": 2, "agent:takeround": 2, "agent:fetched": 2,
    "agent:begin": 3, "agent:keep": 2, "agent:seal": 2, "agent:deliver": 2, "trainer:writing": 2, "trainer:trained": 2,
}  # fmt: skip
"""How often a calm run passes a step, where that is more than once (no more than a run of two rounds does)."""


def _at_step(draw: Random, step: str) -> Fault:
    party = COORDINATOR if step in crash.COORDINATOR else draw.choice(SITES)
    return Fault("step", party, lasts=draw.uniform(0.2, 2.0), step=step, count=draw.randint(1, OFTEN.get(step, 1)))
