"""What a schedule is, drawn from a seed: a consortium, an experiment, how long things take, and faults. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from typing import Any

from messages.ground.crash import AGENT
from messages.ground.crash import COORDINATOR as COORDINATOR_STEPS
from messages.secure.rules import threshold_of

COORDINATOR = "coordinator"
RESEARCHER = "dr-a"
BROKER = "broker"
NAMES = tuple(f"site-{letter}" for letter in "abcdefgh")
WORKS = ("prepare", "evaluate", "build", "average", "verify")


class Stage(StrEnum):
    """Where an experiment is when a fault strikes it; each of the first six is also what a fault waits for."""

    RECRUITING = "recruiting"
    BUILDING = "initialising"
    RUNNING = "running"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    OVER = "over"
    PAUSED = "paused"
    AWAY = "coordinator away"


class Act(StrEnum):
    """What is done, to whom `Strike.where` names. docs/reliability.md tells each in a line."""

    KILL = "killed"
    POWER = "power cut"
    KILL_BEHIND = "killed behind a step"
    POWER_BEHIND = "power cut behind a step"
    STOP = "told to stop"
    HANG = "stopped for a while"
    TRAINER = "trainer killed"
    DISK_FULL = "disk full"
    NO_BYTE = "disk without a byte"
    DISK_FREE = "disk free"
    JUMP = "clock jumps"
    DRIFT = "clock drifts"
    STILL = "clock stands still"
    CUT = "line cut"
    HALF_OPEN = "line half-open"
    ONE_WAY = "line one-way"
    LATE_CONFIRMS = "confirms delayed"
    LOST_CONFIRMS = "confirms lost"
    TWICE = "messages twice"
    RESTART = "broker restarted"
    BROKER_POWER = "broker loses its last seconds"
    WIPED = "broker wiped"
    TRUNCATED = "streams truncated"
    DELETED = "queue deleted"
    ALARM = "broker blocks publishers"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    FINISH = "finish"
    EXCLUDE = "exclude"
    SITE_PAUSE = "operator pauses a site"
    NEW_DATA = "data set changes"
    RUBBISH = "member says rubbish"


SOURCES: Mapping[Act, str] = {
    Act.CUT: "https://www.rabbitmq.com/docs/reliability: unconfirmed messages are published again, acks are lost",
    Act.HALF_OPEN: "https://www.rabbitmq.com/docs/heartbeats: noticed after about two missed intervals",
    Act.ONE_WAY: "https://www.rabbitmq.com/docs/heartbeats: the same, of what one side no longer hears",
    Act.LATE_CONFIRMS: "https://www.rabbitmq.com/docs/confirms: confirms come asynchronously, with no bound",
    Act.LOST_CONFIRMS: "https://www.rabbitmq.com/docs/confirms: stored, and the line broke before the confirm",
    Act.TWICE: "https://www.rabbitmq.com/docs/reliability: messages can be duplicated",
    Act.RESTART: "contract test_bus_faults: the real node is restarted",
    Act.BROKER_POWER: "https://www.rabbitmq.com/docs/streams: streams do not fsync; a host's failure loses the tail",
    Act.WIPED: "chaos test_chaos_broker: the real node's data directory is wiped",
    Act.TRUNCATED: "https://www.rabbitmq.com/docs/streams: retention (max-length-bytes) drops the head",
    Act.DELETED: "contract test_bus_deleted: each queue deleted on a real node, and declared again",
    Act.ALARM: "https://www.rabbitmq.com/docs/alarms: publishers are blocked, consumers go on",
}
"""Where it is written, or was seen on a real node, that a broker does so."""

EXCHANGE = 90.0
"""Deadline of each exchange of a secure round, seconds."""
LEAST_MASKED = 3
PAUSED_WHILE_FULL = "a pause while the disk is full"
WORDS = (Act.PAUSE, Act.RESUME, Act.ABORT, Act.FINISH, Act.EXCLUDE)
OF_BROKER = (Act.RESTART, Act.BROKER_POWER, Act.WIPED, Act.TRUNCATED, Act.DELETED, Act.ALARM)
LOSSY = (Act.BROKER_POWER, Act.WIPED, Act.TRUNCATED, Act.DELETED)
"""Faults by which a word of the researcher may be lost: nobody keeps it, and a person gives the command again."""
OF_SITE = (Act.TRAINER, Act.SITE_PAUSE, Act.NEW_DATA, Act.RUBBISH, Act.EXCLUDE)
CRASHES = (Act.KILL, Act.POWER, Act.KILL_BEHIND, Act.POWER_BEHIND)
LASTING = (
    Act.DISK_FULL, Act.NO_BYTE, Act.HANG, Act.CUT, Act.HALF_OPEN, Act.ONE_WAY, Act.LATE_CONFIRMS, Act.TWICE,
    Act.RESTART, Act.BROKER_POWER, Act.ALARM, Act.SITE_PAUSE, Act.STILL, *CRASHES, Act.STOP,
)  # fmt: skip
_WEIGHTS: Mapping[Act, int] = {
    Act.KILL: 6, Act.POWER: 6, Act.KILL_BEHIND: 8, Act.POWER_BEHIND: 8, Act.STOP: 3, Act.HANG: 3, Act.TRAINER: 3,
    Act.DISK_FULL: 4, Act.NO_BYTE: 3, Act.DISK_FREE: 2, Act.JUMP: 2, Act.DRIFT: 2, Act.STILL: 2, Act.CUT: 3,
    Act.HALF_OPEN: 2, Act.ONE_WAY: 2, Act.LATE_CONFIRMS: 3, Act.LOST_CONFIRMS: 3, Act.TWICE: 3, Act.RESTART: 3,
    Act.BROKER_POWER: 3, Act.WIPED: 2, Act.TRUNCATED: 2, Act.DELETED: 2, Act.ALARM: 2, Act.PAUSE: 4, Act.RESUME: 3,
    Act.ABORT: 1, Act.FINISH: 1, Act.EXCLUDE: 1, Act.SITE_PAUSE: 2, Act.NEW_DATA: 1, Act.RUBBISH: 3,
}  # fmt: skip
_STEPS = (*COORDINATOR_STEPS, *AGENT)
_SECURE_STEPS = (
    "coordinator:secure-keys", "coordinator:secure-shares", "coordinator:weights-ready", "coordinator:secure-consent",
    "coordinator:secure-reveal", "coordinator:aggregating", "agent:tryagain", "agent:takestep", "agent:takemail",
    "agent:tellsecure", "agent:keepinside", "agent:masking", "agent:keep", "agent:leavesecure",
)  # fmt: skip
"""Of a secure round: what the coordinator takes in each of its five steps, and what a site decides in them."""


@dataclass(frozen=True)
class Strike:
    """One fault.

    Attributes:
        where: a party, or the broker.
        stage, round: it strikes `after` seconds after the experiment has come to this (of round `round`).
        lasts: seconds that a party stays away, a disk full, a line down.
        step: behind which a party is killed; "": behind its next one.
        draw: of what else is left to chance in it: a seed of its own, so that one more fault changes no other.
    """

    act: Act
    where: str
    stage: Stage
    round: int
    after: float
    lasts: float = 0.0
    step: str = ""
    draw: int = 0

    def __str__(self) -> str:
        whom = "" if self.act in WORDS and self.act is not Act.EXCLUDE else f" {self.where}"
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        step = f" ({self.step})" if self.step else ""
        of = f" of round {self.round}" if self.stage in (Stage.RUNNING, Stage.AGGREGATING) else ""
        return f"{self.act}{whom}{step}{lasts}, {self.after:.2f} s into {self.stage}{of}"


@dataclass(frozen=True)
class Schedule:
    """What a run is made of.

    `strict`: sites whose policy refuses the experiment. `cases` are those that a site has in all.
    """

    seed: int
    sites: tuple[str, ...]
    kind: str
    rounds: int
    least_sites: int | str
    grace: float | None
    weight_by: str
    order: str
    strategy: str
    codec: str
    keep: str | int
    cases: Mapping[str, int]
    works: Mapping[str, float]
    fast: float
    strict: frozenset[str] = frozenset()
    enrol: float = 600.0
    late: Mapping[str, float] = field(default_factory=dict)
    """Site → seconds until it starts for the first time."""
    strikes: tuple[Strike, ...] = field(default=())
    buffer: int = 1
    staleness: str = "sqrt"
    max_staleness: int = 10
    masks: bool = False
    """Secure rounds: nobody sees a single update."""
    signed: bool = False
    """All parties sign, and the register refuses what is not signed."""

    def train_seconds(self, site: str, number: int) -> float:
        """How long a round's training takes at a site; under an asynchronous plan some sites are slow in each."""
        pace = 1.0 + 4.0 * draw_share(self.seed, "pace", site) if self.kind == "asynchronous" else 1.0
        return self.fast * pace * (0.2 + draw_share(self.seed, "train", site, number))

    def content(self) -> dict[str, Any]:
        """What the experiment file says beside what all schedules share."""
        plan: dict[str, Any] = {"kind": self.kind}
        if self.kind == "sequential":
            plan["order"] = self.order
        else:
            plan |= {"weight_by": self.weight_by, "strategy": self.strategy}
        if self.kind == "asynchronous":
            plan |= {"buffer": self.buffer, "staleness": self.staleness, "max_staleness": self.max_staleness}
        rounds = {"count": self.rounds, "enrol_within": self.enrol, "train_within": 400.0}
        if self.grace is not None:
            rounds["grace"] = self.grace
        scored = {"evaluation": {"select_by": "last"}} if self.kind == "asynchronous" else {}
        hidden = {"privacy": {"secure_aggregation": "masks", "exchange_within": EXCHANGE}} if self.masks else {}
        return (
            scored
            | hidden
            | {
                "sites": list(self.sites),
                "rounds": rounds,
                "plan": plan,
                "quorum": {"least_sites": self.least_sites},
                "wire": {"codec": self.codec},
                "keep_updates": self.keep,
                "seed": self.seed % 2**31,
            }
        )

    @property
    def plain(self) -> bool:
        """Whether each model is the weighted mean of exact updates, which the judge works out by itself."""
        return (self.strategy, self.codec) == ("FedAvg", "float32")

    def list_words(self) -> frozenset[str]:
        """What it has in it, as words: its plan, what is special, its faults and the steps behind which they strike."""
        special = {"masks": self.masks, "signed": self.signed, "grace": self.grace, "few": self.least_sites != "all"}
        special[PAUSED_WHILE_FULL] = any(
            (one.act, one.where, one.stage, one.round) == (Act.DISK_FULL, COORDINATOR, two.stage, two.round)
            and one.after < two.after < one.after + one.lasts
            for one in self.strikes
            for two in self.strikes
            if two.act is Act.PAUSE
        )
        named = {name for name, has in special.items() if has} | {self.kind, self.codec, self.strategy}
        return frozenset(named | {one.act.value for one in self.strikes} | {one.step for one in self.strikes})

    def keep_strikes(self, numbers: tuple[int, ...]) -> Schedule:
        """The same with these of its strikes alone."""
        return replace(self, strikes=tuple(self.strikes[number] for number in numbers))


def draw_share(*what: object) -> float:
    """A number in [0, 1) that follows from what it is for alone."""
    return int.from_bytes(sha256("|".join(map(str, what)).encode()).digest()[:6], "big") / 2**48


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    return _draw_pair(_draw_secrecy(draw_open_schedule(seed)))


def draw_open_schedule(seed: int) -> Schedule:
    """The same as long as nobody signs, and no update is masked: what seeds meant before 0.6."""
    draw = random.Random(f"schedule {seed}")
    sites = NAMES[: draw.choice([1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 6, 7, 8])]
    kind = "sequential" if draw.random() < 0.25 else "aggregation"
    rounds = draw.choice([2, 3, 3, 4, 4, 5, 5, 6, 7])
    least: int | str = draw.choice(["all", "all", max(1, len(sites) // 2), max(1, len(sites) - 1)])
    strict = frozenset(sites[-1:]) if len(sites) > 1 and least != "all" and draw.random() < 0.15 else frozenset[str]()
    if isinstance(least, int):
        least = min(least, len(sites) - len(strict))
    late = {sites[0]: draw.uniform(1.0, 60.0)} if draw.random() < 0.15 else {}
    schedule = Schedule(
        seed,
        sites,
        kind,
        rounds,
        least,
        draw.choice([None, 5.0, 15.0]),
        draw.choice(["cases_used", "cases_used", "equal"]),
        draw.choice(["listed", "seeded", "size"]),
        draw.choice(["FedAvg"] * 7 + ["FedAdam"]) if kind == "aggregation" else "FedAvg",
        draw.choice(["float32"] * 7 + ["bfloat16-difference"]),
        draw.choice(["none", "none", "all", 1]),
        {site: draw.randint(10, 200) for site in sites},
        {work: draw.choice([0.0, draw.uniform(0.0, 3.0)]) for work in WORKS},
        draw.choice([1.0, 4.0, 8.0]),
        strict,
        20.0 if late and least != "all" else 600.0,
        late,
        tuple(_draw_strike(draw, sites, rounds) for _ in range(draw.randint(3, 8))),
    )
    return _draw_pace(schedule) if kind == "aggregation" else schedule


def _draw_pace(schedule: Schedule) -> Schedule:
    """The same, or with its sites each at its own pace. Drawn apart: all else in a seed stays as it was."""
    draw = random.Random(f"paces {schedule.seed}")
    if draw.random() >= 0.3 or schedule.strategy != "FedAvg":
        return schedule
    least = len(schedule.sites) if schedule.least_sites == "all" else int(schedule.least_sites)
    return replace(
        schedule,
        kind="asynchronous",
        rounds=2 * schedule.rounds,
        buffer=draw.randint(1, least),
        staleness=draw.choice(["sqrt", "sqrt", "linear", "none"]),
        max_staleness=draw.choice([0, 1, 2, 10, 10]),
    )


def _draw_secrecy(schedule: Schedule) -> Schedule:
    """The same; or signed; or in secure rounds, with more faults in their steps. Drawn apart, as paces are."""
    draw = random.Random(f"secrets {schedule.seed}")
    chance, count = draw.random(), len(schedule.sites)
    if schedule.kind != "aggregation" or count < LEAST_MASKED or chance >= 0.5:
        return replace(schedule, signed=chance >= 0.9)
    least = "all"
    if schedule.least_sites != "all" and count - len(schedule.strict) >= threshold_of(count, "two-thirds"):
        least = max(LEAST_MASKED, int(schedule.least_sites), threshold_of(count, "two-thirds"))
    more = [_draw_secure_strike(draw, schedule) for _ in range(draw.randint(1, 4))]
    return replace(
        schedule,
        least_sites=least,
        strict=frozenset() if least == "all" else schedule.strict,
        enrol=600.0 if least == "all" else schedule.enrol,
        codec="float32",
        strikes=(*schedule.strikes, *more),
        masks=True,
        signed=True,
    )


def _draw_pair(schedule: Schedule) -> Schedule:
    """The same; or with two faults that meet by chance too rarely. Drawn apart, as paces are."""
    draw = random.Random(f"pairs {schedule.seed}")
    if draw.random() >= 0.05:
        return schedule
    number, lasts = draw.randint(1, schedule.rounds), draw.uniform(15.0, 40.0)
    full = Strike(Act.DISK_FULL, COORDINATOR, Stage.AGGREGATING, number, 0.0, lasts)
    pause = Strike(Act.PAUSE, RESEARCHER, Stage.AGGREGATING, number, draw.uniform(1.0, 12.0))
    return replace(schedule, strikes=(full, pause, *schedule.strikes))


def _draw_secure_strike(draw: random.Random, schedule: Schedule) -> Strike:
    """A party that is lost behind a step of a secure round: for a moment, or beyond the step's deadline."""
    step = draw.choice(_SECURE_STEPS)
    where = COORDINATOR if step.startswith("coordinator") else draw.choice(schedule.sites)
    lasts = draw.choice([0.0, draw.uniform(0.0, 20.0), draw.uniform(EXCHANGE, 3 * EXCHANGE)])
    act = draw.choice([Act.KILL_BEHIND, Act.POWER_BEHIND])
    number = draw.randint(1, schedule.rounds)
    return Strike(act, where, Stage.RUNNING, number, draw.uniform(0.0, 2.0), lasts, step, draw.randrange(2**31))


def _draw_strike(draw: random.Random, sites: tuple[str, ...], rounds: int) -> Strike:
    act = draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    stage = draw.choices(
        [Stage.RECRUITING, Stage.BUILDING, Stage.RUNNING, Stage.AGGREGATING, Stage.EVALUATING, Stage.OVER],
        [2, 2, 6, 4, 3, 1],
    )[0]
    after = draw.choice([0.0, draw.uniform(0.0, 1.0), draw.uniform(0.0, 4.0)])
    lasts = draw.choice([0.0, draw.uniform(0.0, 3.0), draw.uniform(0.0, 20.0), draw.uniform(0.0, 60.0)])
    where, step = COORDINATOR if draw.random() < 0.45 else draw.choice(sites), ""
    if act in OF_SITE:
        where = draw.choice(sites)
    elif act in OF_BROKER or act in WORDS:
        where = BROKER if act in OF_BROKER else RESEARCHER
    elif act in (Act.KILL_BEHIND, Act.POWER_BEHIND) and draw.random() < 0.6:
        step = draw.choice(_STEPS)
        where = COORDINATOR if step.startswith("coordinator") else draw.choice(sites)
    elif act is Act.HANG:
        lasts = draw.uniform(1.0, 150.0)
    return Strike(
        act,
        where,
        stage,
        draw.randint(1, rounds),
        after,
        lasts if act in LASTING else 0.0,
        step,
        draw.randrange(2**31),
    )
