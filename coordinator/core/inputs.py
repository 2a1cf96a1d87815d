"""What the state machine is told: events from the wire, and what the coordinator's own workers and timers report.

Strict records that go into the journal as plain msgpack maps. Time comes with them; the machine has no clock.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from coordinator.core.records import NO_BOUNDS, WORDS, Bounds, MadeModel, ModelOrigin, Record
from coordinator.core.state import Timer
from messages import abilities, envelope
from messages.kinds import KINDS, PooledFigures
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.tensors.layout import Manifest


class Input(Record):
    """Base: `time` is the coordinator's clock when the input was taken."""

    time: float


class FileCheck(Record):
    """What was found in the file of an experiment-start, by the version that took it.

    `reason`: why the file is not valid, with the mistakes in words; None: it is valid, and the other fields tell of it.
    `file` is its canonical form, `expires` its last day ("2027-12-31"), `enrol_within` seconds, `keep_updates` rounds
    (None: all). `digest` is empty where the file is no experiment at all. `origin`: the model that it names under
    `net.from`, as it was found; left out of the journal where it names none.
    """

    reason: Reason | None = None
    mistakes: Annotated[str, WORDS] = ""
    digest: str = ""
    file: dict[str, Any] = {}
    sites: tuple[str, ...] = ()
    expires: str | None = None
    enrol_within: float = 0.0
    keep_updates: int | None = None
    origin: ModelOrigin | None = Field(None, exclude_if=lambda value: value is None)


class Received(Input):
    """A history event as it was on the wire.

    `known`: its sender is admitted in the role that the kind asks for. The other fields are the operator's settings
    at that moment, given with experiment-start only: sites admitted, most rounds of updates kept (None: no cap), and
    `bounds`, and whether its sender has as many open experiments as it may (`full`); both are left out of the journal
    where there is nothing to say.
    `file_check` is given with experiment-start of a known sender (0.1: never).
    `vocabulary`: the number of the words that its reader knew, where the event held newer ones: a later version that
    replays the journal reads it as it was read. Left out of the journal where it held none.
    """

    input: Literal["received"] = "received"
    raw: bytes
    known: bool = True
    admitted: tuple[str, ...] = ()
    keep_cap: int | None = None
    full: bool = Field(False, exclude_if=lambda value: not value)
    file_check: FileCheck | None = Field(None, exclude_if=lambda value: value is None)
    vocabulary: int | None = Field(None, exclude_if=lambda value: value is None)
    bounds: Bounds = Field(NO_BOUNDS, exclude_if=lambda value: value == NO_BOUNDS)

    @classmethod
    def of_event(cls, event: envelope.Event, **fields: Any) -> Received:
        """Of an event that is decoded already: decoding is the dearest step of a message, and `event` keeps it."""
        given = cls(raw=event.raw, vocabulary=abilities.VOCABULARY if event.newer else None, **fields)
        given.__dict__["event"] = event
        return given

    @cached_property
    def event(self) -> envelope.Event:
        """The decoded event."""
        return envelope.decode_stored(self.raw, self.vocabulary)


class Initialised(Input):
    """The initial model is built and stored; `wire` is the seal of its copy in the codec that a round sends it in."""

    input: Literal["initialised"] = "initialised"
    manifest: Manifest
    seal: str
    digest: str
    wire: str | None = None


class InitialisationFailed(Input):
    input: Literal["initialisation-failed"] = "initialisation-failed"
    reason: Reason = Reason.INITIALISATION_FAILED


class UpdateStored(Input):
    """A site's update is verified, finite, and stored under its seal.

    `norm`: Euclidean length of what training changed, over all trained numbers, as it was measured then; `statistics`:
    the same over measured statistics (batch normalisation). Left out of the journal where they were not measured.
    """

    input: Literal["update-stored"] = "update-stored"
    site: str
    round: int
    attempt: int
    norm: float | None = Field(None, exclude_if=lambda value: value is None)
    statistics: float | None = Field(None, exclude_if=lambda value: value is None)


class UpdateBad(Input):
    """A site's update cannot be used as it came."""

    input: Literal["update-bad"] = "update-bad"
    site: str
    round: int
    attempt: int
    reason: Reason


class Aggregated(Input):
    """The round's aggregate is stored under its seal; `wire` as with `Initialised`.

    `memory`: the seal of what the strategy keeps for the next round. Left out of the journal where it keeps nothing.
    `cosines`: by site, of its update and the others' mean direction; left out where it was not measured.
    `own`: by site, where each update makes a model of its own; then `digest` names them all (`models.name_models`), and
    `seal` is empty. Left out where one model was made.
    `pooled`, `validation`: what a secure round tells of its sites together; left out where rounds are open.
    """

    input: Literal["aggregated"] = "aggregated"
    round: int
    seal: str
    digest: str
    wire: str | None = None
    memory: str | None = Field(None, exclude_if=lambda value: value is None)
    cosines: dict[str, float] = Field({}, exclude_if=lambda value: not value)
    own: dict[str, MadeModel] = Field({}, exclude_if=lambda value: not value)
    pooled: PooledFigures | None = Field(None, exclude_if=lambda value: value is None)
    validation: SplitScores | None = Field(None, exclude_if=lambda value: value is None)


class AggregationFailed(Input):
    input: Literal["aggregation-failed"] = "aggregation-failed"
    round: int


class SumRefused(Input):
    """What came out of a secure round's unmasked sum is nothing that honest sites can have sent."""

    input: Literal["sum-refused"] = "sum-refused"
    round: int
    reason: Reason


class HandlingFailed(Input):
    """What came could not be handled: it raised, and was set aside. What waits for it ends with a code.

    `kind`: of the event, or the name of the own input. `site`: whose answer, or update, it was about; `round`: of which
    round.
    """

    input: Literal["handling-failed"] = "handling-failed"
    kind: str
    site: str | None = None
    round: int = 0


class TimerFired(Input):
    input: Literal["timer-fired"] = "timer-fired"
    timer: Timer


class Outage(Input):
    """From `since` until now nothing could be received: timers get that time back."""

    input: Literal["outage"] = "outage"
    since: float


class DiskFull(Input):
    """The coordinator's disk is full: the experiment waits until there is space."""

    input: Literal["disk-full"] = "disk-full"


class DiskFree(Input):
    """There is space again: what waited for it goes on."""

    input: Literal["disk-free"] = "disk-free"


class Barred(Input):
    """The operator's register has no good key any more of a site, which takes no part in what goes on, or of the
    experiment's researcher: then it ends. `site`: the party."""

    input: Literal["barred"] = "barred"
    site: str
    reason: Reason = Reason.NO_GOOD_KEY


AnyInput = Annotated[
    Received
    | Initialised
    | InitialisationFailed
    | UpdateStored
    | UpdateBad
    | Aggregated
    | AggregationFailed
    | SumRefused
    | HandlingFailed
    | TimerFired
    | Outage
    | DiskFull
    | DiskFree
    | Barred,
    Field(discriminator="input"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyInput)

OWN_KINDS = (
    "initialised",
    "initialisation-failed",
    "update-stored",
    "update-bad",
    "aggregated",
    "aggregation-failed",
    "sum-refused",
    "handling-failed",
    "timer-fired",
    "outage",
    "disk-full",
    "disk-free",
    "barred",
)


def kind_of(given: AnyInput) -> str:
    """The table's second key: the event's kind, or the own input's name."""
    return given.event.kind if isinstance(given, Received) else given.input


def identify_event(event: envelope.Event) -> str:
    """What a repetition is known by. A researcher may say the same thing twice and mean it (pause, resume, pause):
    there the payload tells, and not the message around it, of which there are many encodings."""
    if "site" in KINDS[event.kind].senders:
        return event.id
    return f"{event.id}:{sha256(envelope.wrap_payload(event.raw)).hexdigest()[:16]}"


def to_plain(given: AnyInput) -> dict[str, Any]:
    """As plain types for msgpack."""
    plain: dict[str, Any] = given.model_dump(mode="python", exclude_defaults=False)
    return plain


def from_plain(plain: Any) -> AnyInput:
    """Read back; pydantic.ValidationError (a ValueError) where it is none."""
    read: AnyInput = _ADAPTER.validate_python(plain)
    return read
