"""What the coordinator knows of one experiment: frozen records, changed only by `evolve`.

All times are the coordinator's clock, seconds since 1970. Mappings are never changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from coordinator.core.logic import LOGIC
from coordinator.core.records import NO_BOUNDS, Bounds, ModelOrigin
from coordinator.core.roll import Roll
from messages import abilities
from messages.experiment import Experiment
from messages.kinds import ModelScores, Word
from messages.reasons import IN_OLDER_WORDS, Reason
from messages.scores import SplitScores
from messages.secure.pooled import describe_masked, list_figures
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import DataFingerprint
from messages.tensors.codecs import CODECS, Codec
from messages.tensors.layout import Manifest

EMPTY: Mapping[Any, Any] = MappingProxyType({})


class Phase(StrEnum):
    """Where an experiment is; NONE is an id of which nothing is known."""

    NONE = "none"
    RECRUITING = "recruiting"
    INITIALISING = "initialising"
    RUNNING = "running"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"


ENDED = frozenset({Phase.COMPLETE, Phase.FAILED, Phase.ABORTED})


StepName = Word
"""What an open round waits for: the name of a row of `coordinator.core.steps.table`."""
UPDATES: StepName = "updates"
SCORES: StepName = "scores"
STATISTICS: StepName = "statistics"
KEYS: StepName = "keys"
SHARES: StepName = "shares"
MASKED: StepName = "masked"
CONSENT: StepName = "consent"
REVEAL: StepName = "reveal"
SECURE: tuple[StepName, ...] = (KEYS, SHARES, MASKED, CONSENT, REVEAL)
"""The steps of a secure round (Bonawitz et al. 2017), in order; MASKED is its step of updates."""
_SCORE = "score-"
SCORING: tuple[StepName, ...] = tuple(_SCORE + step for step in SECURE)
"""The same of the secure evaluation."""


def role_of(step: StepName) -> StepName:
    """What a step is for: a secure evaluation's steps do what those of a secure round do."""
    return step.removeprefix(_SCORE)


class Timer(StrEnum):
    """Names of timers; each experiment has at most one of each."""

    ENROL = "enrol"
    ACCEPT = "accept"
    GRACE = "grace"
    DEADLINE = "deadline"


class Standing(StrEnum):
    """An invited site's answer."""

    INVITED = "invited"
    JOINED = "joined"
    DECLINED = "declined"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class Member:
    """An invited site. `away`: it said `leaving` and has not been heard of since.

    `abilities`: what its version can beside 0.1, as it said when it joined. `validation`, `test`: its cases of these
    splits; None where they were not noted.
    """

    standing: Standing = Standing.INVITED
    train: int = 0
    validation: int | None = None
    test: int | None = None
    reason: Reason | None = None
    away: bool = False
    abilities: frozenset[str] = frozenset()

    @property
    def answered(self) -> bool:
        """Whether nobody waits for its yes or no; "an operator must look at it first" is neither."""
        if self.standing is Standing.DECLINED:
            return self.reason is not Reason.AWAITS_APPROVAL
        return self.standing in (Standing.JOINED, Standing.EXCLUDED)


def invite_members(sites: Iterable[str]) -> Roll[Member]:
    """Members of whom none has answered; the roll's one sum counts those who have."""
    return Roll({site: Member() for site in sites}, lambda _site, member: int(member.answered))


@dataclass(frozen=True, slots=True)
class Model:
    """A global model: the seal of its exact bytes, and the digest that names its weights.

    `wire`: the seal of the copy that its round sends, where that is in another codec; None: the exact bytes travel.
    `memory`: the seal of what the strategy keeps from the rounds that made it; None: nothing. It never travels.
    """

    seal: str
    digest: str
    wire: str | None = None
    memory: str | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """An announced update. `event` is the id of the weights-ready that awaits its receipt.

    `steps`: optimiser steps that the site says it took; None where the strategy does not count them.
    """

    attempt: int
    seal: str
    chunk_bytes: int
    event: str
    cases_used: int
    validation: SplitScores | None = None
    asked_again: int = 0
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A site's part in the open step. `answer`: the body of its answer, in a step that asks for nothing else.

    `norm`, `statistics`: of its update, as `inputs.UpdateStored` says. `base`: the round whose model the site works
    with, where that is an earlier one; `place`: the how-many-eth update to come (`Round.taken`). `said`: the answer's
    event, verbatim, where others are shown it.
    """

    accepted: bool = False
    absent: bool = False
    failed: Reason | None = None
    update: Update | None = None
    stored: bool = False
    scores: Mapping[str, ModelScores] | None = None
    answer: Mapping[str, Any] | None = None
    norm: float | None = None
    statistics: float | None = None
    base: int | None = None
    place: int = 0
    said: bytes | None = None

    @property
    def reported(self) -> bool:
        """Whether what the step asks for is here and good: the update is stored, the scores or the answer are here."""
        return self.stored or self.scores is not None or self.answer is not None


@dataclass(frozen=True, slots=True)
class Round:
    """The open round, in its open step.

    Attributes:
        started: when the step opened; `began`: when the round did.
        parts: of the sites that take part in the step; they come from `quorum.make_roll`.
        cases: what these sites announced, frozen when the round began.
        announced: how often the step was announced.
        opening: how many steps have opened in the round; the attempt of the event that opened this one.
        left_out: sites that the round has left behind, each with its reason.
        earlier: what was reported in earlier steps of the round, by role of the step and site.
        weights: of the ensemble that is scored, by label.
        going_on: by site that went on with what it did for an earlier round when this one opened, which round that is.
        taken: how many updates have come, in it and in those whose work goes on in it.
        tried: which try of a secure round's exchange; 0: it is no secure round.
        weighed: by site that masks (U2), how much it weighs in the sum.
        unopened: (dealer, holder) of shares that could not be opened.
    """

    number: int
    step: StepName
    started: float
    parts: Roll[Part]
    cases: Mapping[str, int]
    evaluate: bool
    announced: int = 1
    quorum_at: float | None = None
    extensions: int = 0
    closed_at: float | None = None
    left_out: Mapping[str, Reason] = field(default_factory=lambda: EMPTY)
    opening: int = 1
    began: float | None = None
    earlier: Mapping[StepName, Mapping[str, Part]] = field(default_factory=lambda: EMPTY)
    weights: Mapping[str, float] = field(default_factory=lambda: EMPTY)
    going_on: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    taken: int = 0
    tried: int = 0
    weighed: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    unopened: frozenset[tuple[str, str]] = frozenset()

    @property
    def reported(self) -> tuple[str, ...]:
        """Sites whose part is here, in the order of their names."""
        return tuple(sorted(site for site, part in self.parts.items() if part.reported))

    @property
    def role(self) -> StepName:
        """What the open step is for (`role_of`)."""
        return role_of(self.step)

    @property
    def is_scoring(self) -> bool:
        """Whether it is a secure evaluation."""
        return self.step in SCORING

    @property
    def trained(self) -> Mapping[str, Part]:
        """Parts of those whose updates make the model: of a secure round, once these are in, not those of the open
        step."""
        return self.earlier.get(MASKED, self.parts)

    def base_of(self, site: str) -> int:
        """The round whose model a site works with, and which its events name: this one, or an earlier one."""
        base = self.parts[site].base
        return self.number if base is None else base


@dataclass(frozen=True, slots=True)
class Kept:
    """An update whose blob is kept for replay. `base`: the round whose model it began with."""

    round: int
    site: str
    seal: str
    base: int


@dataclass(frozen=True, slots=True)
class Scored:
    """Pooled mean validation score of the model that `rounds` rounds made."""

    rounds: int
    mean: float


@dataclass(frozen=True, slots=True)
class Pooled:
    """What a secure round tells of its sites together; `loss`: mean training loss over so many `cases`."""

    cases: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class VoidRound:
    """A secure round that ended without a sum."""

    number: int
    reason: Reason
    left_out: Mapping[str, Reason]
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What is told of a round that has made a model."""

    number: int
    contributors: Mapping[str, int]
    left_out: Mapping[str, Reason]
    digest: str
    validation: SplitScores | None
    seconds: float
    staleness: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    pooled: Pooled | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a complete experiment yields; `label` names the candidate that was chosen. `weights`: by part, where that is
    an ensemble."""

    label: str
    rounds: int
    test: SplitScores | None
    weights: Mapping[str, float] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the sites told of their training cases, all together; `configuration`: what follows from it, or None."""

    statistics: DataFingerprint
    contributors: Mapping[str, int]
    left_out: Mapping[str, Reason]
    memory_mib: int | None
    configuration: Configuration | None


@dataclass(frozen=True, slots=True)
class ExperimentState:
    """Everything that the journal's entries of one experiment add up to.

    `models[r]` is the model that round r received (so `models[1]` is the initial one). `timers` are moments that are
    due; while paused they are `remaining` seconds instead. `turns` is the plan's own memory (`Plan.remember_turns`).
    `file` is the experiment file as it was accepted, `bounds` the operator's then. `excluded`: sites that the
    researcher took out, in that order. `origin`: the model that it begins with, where that is not drawn. `own[r]`:
    by site, the model of its own that it receives in round r; `models` has the initial one alone then. `logic` is no
    part of the record: `decide` sets it, for rules that differ by it (`coordinator.core.logic`). `measured`: statistics
    that it began with; from then on `experiment` is what it was configured to, and `file` stays what was accepted.
    `void`: the last secure round that ended without a sum, if the last one did; `voided`: how many did, in a row.
    """

    experiment: Experiment
    digest: str
    researcher: str
    original: bytes
    started: float
    phase: Phase
    members: Roll[Member]
    keep_updates: int | None = None
    timers: Mapping[Timer, float] = field(default_factory=lambda: EMPTY)
    paused_from: Phase | None = None
    paused_because: Reason | None = None
    pauses: int = 0
    resumes: int = 0
    remaining: Mapping[Timer, float] = field(default_factory=lambda: EMPTY)
    manifest: Manifest | None = None
    models: Mapping[int, Model] = field(default_factory=lambda: EMPTY)
    round: Round | None = None
    completed: int = 0
    last_result: RoundResult | None = None
    scores: tuple[Scored, ...] = ()
    turns: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()
    reason: Reason | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    file: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    bounds: Bounds = NO_BOUNDS
    excluded: tuple[str, ...] = ()
    origin: ModelOrigin | None = None
    own: Mapping[int, Mapping[str, Model]] = field(default_factory=lambda: EMPTY)
    logic: int = LOGIC
    measured: Measured | None = None
    void: VoidRound | None = None
    voided: int = 0

    @property
    def awaits_statistics(self) -> bool:
        """Whether it begins with statistics that are not here yet."""
        return self.measured is None and self.experiment.measures_first

    @property
    def id(self) -> str:
        """The experiment's id."""
        return self.experiment.id

    @property
    def codec(self) -> Codec:
        """The codec of the updates; it names that of the models that rounds send."""
        return CODECS[self.experiment.wire.codec]

    @property
    def makes_from_model(self) -> bool:
        """Whether a round's aggregate is made from the model that it received, and not from its updates alone."""
        plan = self.experiment.plan
        return self.codec.difference or plan.strategy.from_model or plan.keeps_work or self.is_masked

    @property
    def is_masked(self) -> bool:
        """Whether nobody sees a single update: rounds are secure."""
        return self.experiment.privacy.secure_aggregation == "masks"

    @property
    def update_manifest(self) -> Manifest | None:
        """What an update looks like on the wire; None before there is a model."""
        if self.manifest is None:
            return None
        if self.is_masked:
            figures = () if self.round is None else list_figures(self.experiment, evaluate=self.round.evaluate)
            return describe_masked(self.manifest, len(figures))
        return self.manifest.in_codec(self.codec.name)

    @property
    def is_between(self) -> bool:
        """Whether the next round may begin: none is open or in the making. One that has made its model stays as
        `round` until then where work goes on from it."""
        one = self.round
        return one is None or (one.closed_at is not None and one.number <= self.completed)

    @property
    def has_next(self) -> bool:
        """Whether the model, or models, are here that the next round begins with."""
        return self.completed + 1 in self.models or self.completed + 1 in self.own

    @property
    def own_models(self) -> Mapping[str, Model]:
        """The newest model of each site, in the order of their names, where each has its own; without sites that were
        excluded."""
        here = self.own.get(self.completed + 1, EMPTY)
        return {site: here[site] for site in sorted(here) if site not in self.excluded}

    @property
    def stage(self) -> Phase:
        """The phase, or the one that a pause came from."""
        return self.paused_from if self.paused_from is not None else self.phase

    @property
    def everybody_answered(self) -> bool:
        """Whether each invited site has said yes or no."""
        return self.members.sums == (len(self.members),)

    def may_use(self, ability: str, *others: str) -> bool:
        """Whether something that 0.1 lacks may be used: this version and every site that takes part have it.

        Args:
            others: sites that must have it, though they take no part any more.
        """
        return abilities.may_use(ability, (self.members[site].abilities for site in (*self.joined, *others)))

    @property
    def signs_chunks(self) -> bool:
        """Whether every site of the open step can read chunks that are signed."""
        parts = () if self.round is None else self.round.parts
        return bool(parts) and all(abilities.WORDS_6 in self.members[site].abilities for site in parts)

    def tellable_reason(self, reason: Reason, *listeners: str) -> Reason:
        """A reason as those who are told can read it.

        Args:
            listeners: the sites that are told; none: all that take part.
        """
        if reason not in IN_OLDER_WORDS:
            return reason
        can = (self.members[site].abilities for site in listeners or self.joined if site in self.members)
        readable = reason is not Reason.OTHER and abilities.may_use(abilities.WORDS_3, can)
        return reason if readable else IN_OLDER_WORDS[reason]

    @property
    def joined(self) -> tuple[str, ...]:
        """Sites that take part, in the order of their names."""
        return tuple(sorted(site for site, one in self.members.items() if one.standing is Standing.JOINED))

    @property
    def selected(self) -> int | None:
        """Rounds that made the best-scored model so far (the earliest of equals); None where none was scored."""
        if self.experiment.evaluation.select_by == "last" or not self.scores:
            return None
        rank = self.experiment.task.reader.rank_score
        return max(self.scores, key=lambda scored: (rank(scored.mean), -scored.rounds)).rounds
