"""What the state machine decides: frozen records that `evolve` applies and the journal keeps as plain maps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from coordinator.core.records import NO_BOUNDS, WORDS, Bounds, MadeModel, ModelOrigin, Record
from coordinator.core.state import StepName, Timer
from messages.kinds import Label, ModelScores, PooledFigures
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import DataFingerprint
from messages.tensors.layout import Manifest


class Decision(Record):
    """Base."""


class Accepted(Decision):
    """An experiment begins. `keep_updates`: rounds whose updates are kept; None: all. `origin`: the model that it
    begins with; not in the journal where that is drawn."""

    decision: Literal["accepted"] = "accepted"
    experiment: dict[str, Any]
    digest: str
    researcher: str
    original: bytes
    time: float
    enrol_due: float
    keep_updates: int | None
    bounds: Bounds = Field(NO_BOUNDS, exclude_if=lambda value: value == NO_BOUNDS)
    origin: ModelOrigin | None = Field(None, exclude_if=lambda value: value is None)


class StartRefused(Decision):
    decision: Literal["start-refused"] = "start-refused"
    experiment: str
    event: str
    reason: Reason
    mistakes: Annotated[str, WORDS] = ""


class Settled(Decision):
    """A history event is dealt with: its sender gets a receipt."""

    decision: Literal["settled"] = "settled"
    event: str
    sender: str


class Witnessed(Decision):
    """A site cosigned a head of the log. It concerns no experiment, and changes nothing that is decided."""

    decision: Literal["witnessed"] = "witnessed"
    site: str
    size: int


class Refused(Decision):
    """An event is not used, and its sender is told."""

    decision: Literal["refused"] = "refused"
    event: str
    kind: str
    sender: str
    reason: Reason
    round: int = 0


class SiteJoined(Decision):
    """A site takes part. `abilities`: what its version can beside 0.1, sorted; not in the journal where nothing.

    `validation`, `test`: cases of these splits; not in the journal where they were not noted (up to logic 2).
    """

    decision: Literal["site-joined"] = "site-joined"
    site: str
    train: int
    validation: int | None = Field(None, exclude_if=lambda value: value is None)
    test: int | None = Field(None, exclude_if=lambda value: value is None)
    abilities: tuple[str, ...] = Field((), exclude_if=lambda value: not value)


class SiteDeclined(Decision):
    decision: Literal["site-declined"] = "site-declined"
    site: str
    reason: Reason


class Excluded(Decision):
    """A site is taken out of the rest of the experiment, by its researcher or because the operator revoked its
    key; what it has reported in the open step goes too."""

    decision: Literal["excluded"] = "excluded"
    site: str
    reason: Reason


class SiteAway(Decision):
    decision: Literal["site-away"] = "site-away"
    site: str


class SiteBack(Decision):
    """A site that had left is heard of again."""

    decision: Literal["site-back"] = "site-back"
    site: str


class RecruitingClosed(Decision):
    decision: Literal["recruiting-closed"] = "recruiting-closed"
    sites: tuple[str, ...]


class InitialModel(Decision):
    """`wire`: seal of the model in the codec that its round sends it in, where that is not exact."""

    decision: Literal["initial-model"] = "initial-model"
    manifest: Manifest
    seal: str
    digest: str
    wire: str | None = None


class RoundStarted(Decision):
    """A step of a round opens; `cases` are the taking-part sites' training cases, frozen when the round began.

    `opening`: how many steps the round has opened, with this one. `left_out`: sites that it has left behind so far.
    `weights`, `tried`, `weighed`: as `plans.base.Opening` says. `going_on`: by site that goes on with what it does for
    an earlier round, which round that is.
    """

    decision: Literal["round-started"] = "round-started"
    number: int
    step: StepName
    cases: dict[str, int]
    away: tuple[str, ...]
    evaluate: bool
    time: float
    accept_due: float
    deadline: float
    opening: int = Field(1, exclude_if=lambda value: value == 1)
    left_out: dict[str, Reason] = Field({}, exclude_if=lambda value: not value)
    weights: dict[str, float] = Field({}, exclude_if=lambda value: not value)
    going_on: dict[str, int] = Field({}, exclude_if=lambda value: not value)
    tried: int = Field(0, exclude_if=lambda value: value == 0)
    weighed: dict[str, int] = Field({}, exclude_if=lambda value: not value)


class SiteAccepted(Decision):
    """`anew`: it was to go on with what it did for an earlier round, and begins with the open one's model instead."""

    decision: Literal["site-accepted"] = "site-accepted"
    site: str
    anew: bool = Field(False, exclude_if=lambda value: not value)


class AnnouncedAgain(Decision):
    """Some site has not accepted: the round-start is announced once more."""

    decision: Literal["announced-again"] = "announced-again"
    times: int
    accept_due: float


class SitesAbsent(Decision):
    decision: Literal["sites-absent"] = "sites-absent"
    sites: tuple[str, ...]


class UpdateAnnounced(Decision):
    """`steps`: optimiser steps that the site says it took; not in the journal where no strategy counts them."""

    decision: Literal["update-announced"] = "update-announced"
    site: str
    attempt: int
    seal: str
    chunk_bytes: int
    event: str
    cases_used: int
    validation: SplitScores | None
    steps: int | None = Field(None, exclude_if=lambda value: value is None)


class UpdateTaken(Decision):
    """An update is here; `norm` and `statistics` as `UpdateStored` says."""

    decision: Literal["update-taken"] = "update-taken"
    site: str
    norm: float | None = Field(None, exclude_if=lambda value: value is None)
    statistics: float | None = Field(None, exclude_if=lambda value: value is None)


class UpdateLeftOut(Decision):
    """An update that was taken is not used after all, as the others of its round show."""

    decision: Literal["update-left-out"] = "update-left-out"
    site: str
    reason: Reason


class TransferAgain(Decision):
    """An update's bytes were not those sealed: the site sends all chunks again."""

    decision: Literal["transfer-again"] = "transfer-again"
    site: str
    times: int


class SiteFailed(Decision):
    decision: Literal["site-failed"] = "site-failed"
    site: str
    reason: Reason


class QuorumMet(Decision):
    decision: Literal["quorum-met"] = "quorum-met"
    time: float
    grace_due: float


class DeadlineExtended(Decision):
    decision: Literal["deadline-extended"] = "deadline-extended"
    times: int
    deadline: float


class RoundClosed(Decision):
    """No more updates are taken: the contributors are aggregated."""

    decision: Literal["round-closed"] = "round-closed"
    number: int
    time: float
    contributors: dict[str, int]
    left_out: dict[str, Reason]


class RoundCompleted(Decision):
    """A round has made a model. `memory`: seal of what the strategy keeps for the next round, `cosines` by site, `own`:
    the models of a round that made one for each site; all as `Aggregated` says. `staleness`: by contributor whose
    update began with an earlier round's model, how many rounds earlier. `pooled`: of a secure round."""

    decision: Literal["round-completed"] = "round-completed"
    number: int
    contributors: dict[str, int]
    left_out: dict[str, Reason]
    seal: str
    digest: str
    wire: str | None = None
    validation: SplitScores | None
    seconds: float
    memory: str | None = Field(None, exclude_if=lambda value: value is None)
    cosines: dict[str, float] = Field({}, exclude_if=lambda value: not value)
    own: dict[str, MadeModel] = Field({}, exclude_if=lambda value: not value)
    staleness: dict[str, int] = Field({}, exclude_if=lambda value: not value)
    pooled: PooledFigures | None = Field(None, exclude_if=lambda value: value is None)


class RoundVoided(Decision):
    """A secure round ends without a sum: the model that it received goes on to the next one."""

    decision: Literal["round-voided"] = "round-voided"
    number: int
    time: float
    reason: Reason
    left_out: dict[str, Reason]
    seconds: float


class ShareUnopened(Decision):
    """What `dealer` sealed for `holder` does not open, says the holder. `fault`: whose, as the one-time key shows."""

    decision: Literal["share-unopened"] = "share-unopened"
    dealer: str
    holder: str
    fault: Literal["dealer", "either"]


class ShareWrong(Decision):
    """What `holder` revealed of a share of `dealer` does not fit what the dealer had committed itself to."""

    decision: Literal["share-wrong"] = "share-wrong"
    dealer: str
    holder: str


class StatisticsPooled(Decision):
    """What the sites told of their training cases, all together, and the configuration that follows from it, if any
    does.

    `contributors`: site → training cases that it told of. `memory_mib`: the least that one of them declared.
    """

    decision: Literal["statistics-pooled"] = "statistics-pooled"
    time: float
    statistics: DataFingerprint
    contributors: dict[str, int]
    left_out: dict[str, Reason]
    memory_mib: int | None
    configuration: Configuration | None


class SiteEvaluated(Decision):
    decision: Literal["site-evaluated"] = "site-evaluated"
    site: str
    scores: dict[str, ModelScores]


class StepAnswered(Decision):
    """A site's answer in a step that asks for nothing but its answer; `answer` is the event's body. `said`: the event,
    verbatim, where others are shown it."""

    decision: Literal["step-answered"] = "step-answered"
    site: str
    answer: dict[str, Any]
    said: bytes | None = Field(None, exclude_if=lambda value: value is None)


class Completed(Decision):
    """The experiment yields a model. `weights`: by part, where that is an ensemble."""

    decision: Literal["completed"] = "completed"
    time: float
    label: Label
    rounds: int
    test: SplitScores | None
    weights: dict[str, float] = Field({}, exclude_if=lambda value: not value)


class Failed(Decision):
    decision: Literal["failed"] = "failed"
    time: float
    reason: Reason


class Aborted(Decision):
    decision: Literal["aborted"] = "aborted"
    time: float


class Paused(Decision):
    decision: Literal["paused"] = "paused"
    reason: Reason | None
    remaining: dict[Timer, float]


class Resumed(Decision):
    decision: Literal["resumed"] = "resumed"
    timers: dict[Timer, float]


class TimersMoved(Decision):
    """Time that passed in an outage is given back."""

    decision: Literal["timers-moved"] = "timers-moved"
    timers: dict[Timer, float]


class TimerDone(Decision):
    """A timer fired and asked for nothing more."""

    decision: Literal["timer-done"] = "timer-done"
    timer: Timer


AnyDecision = Annotated[
    Accepted
    | StartRefused
    | Settled
    | Witnessed
    | Refused
    | SiteJoined
    | SiteDeclined
    | Excluded
    | SiteAway
    | SiteBack
    | RecruitingClosed
    | InitialModel
    | RoundStarted
    | SiteAccepted
    | AnnouncedAgain
    | SitesAbsent
    | UpdateAnnounced
    | UpdateTaken
    | UpdateLeftOut
    | TransferAgain
    | SiteFailed
    | QuorumMet
    | DeadlineExtended
    | RoundClosed
    | RoundCompleted
    | RoundVoided
    | ShareUnopened
    | ShareWrong
    | StatisticsPooled
    | SiteEvaluated
    | StepAnswered
    | Completed
    | Failed
    | Aborted
    | Paused
    | Resumed
    | TimersMoved
    | TimerDone,
    Field(discriminator="decision"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyDecision)


def to_plain(decision: AnyDecision) -> dict[str, Any]:
    """As plain types for msgpack."""
    plain: dict[str, Any] = decision.model_dump(mode="python")
    return plain


def from_plain(plain: Any) -> AnyDecision:
    """Read back; pydantic.ValidationError (a ValueError) where it is none."""
    read: AnyDecision = _ADAPTER.validate_python(plain)
    return read
