"""Every event kind: its body's model, the queue it travels to, whether it is history (journaled) or only live.

A body never holds free text from a site, a path, or anything that names a patient: reason codes and counts only.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from messages.experiment import MOST_ALONE, MOST_SITES
from messages.ground.naming import WHOLE_EXPERIMENT, WHOLE_NAME
from messages.ground.strictness import StrictModel, at_most
from messages.names import AUDIT, DOWNLINK, GLOBAL, MODELS, PROGRESS, UPLINK
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.tensors.layout import Manifest
from messages.words import drop_unknown_fields, other_keys_folded, other_where_unknown, reading_of

Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
RoundNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
EventId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SiteName = Annotated[str, Field(pattern=WHOLE_NAME)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,39}$")]
Versions = Annotated[dict[Word, Version], at_most(16)]
_REASONS = frozenset(one.value for one in Reason)
Code = Annotated[Reason, other_where_unknown(_REASONS)]
"""A reason code."""
LeftOut = Annotated[dict[Reason, Count], at_most(len(Reason)), other_keys_folded(_REASONS)]
MOST_RECEIPTS = 1000
MOST_LOSS = 1e12
"""Magnitude; no net that learns anything has such a loss."""
MOST_CHUNKS = 100_000
MOST_REGISTER_BYTES = 2**20
MOST_CANDIDATES = MOST_ALONE
Label = Word
"""Names a candidate within its experiment, as a code word: "final", "selected", …"""
NoteBytes = Annotated[bytes, Field(max_length=2**16)]
"""A signed note (`messages.trust.notes`); empty where there is none."""
Proof = Annotated[list[Annotated[bytes, Field(min_length=32, max_length=32)]], at_most(64)]
"""Hashes of a Merkle tree."""
Sites = Annotated[list[SiteName], at_most(MOST_SITES)]


class Body(StrictModel):
    """Base of all bodies: unknown fields, scalars of another type, NaN and infinity are refused; frozen.

    In an event that says that it is of a newer version, unknown fields are left out.
    """

    @model_validator(mode="before")
    @classmethod
    def _later_fields_are_left_out(cls, content: Any, info: ValidationInfo) -> Any:
        reading = reading_of(info)
        return drop_unknown_fields(cls, content, reading) if reading and isinstance(content, dict) else content

    def as_plain(self) -> dict[str, Any]:
        """As plain types for msgpack."""
        return self.model_dump(mode="python", exclude_none=True, by_alias=True, serialize_as_any=True)


class Transfer(Body):
    """Names a transfer and seals its content. (experiment and sender stand in the envelope.)"""

    round: RoundNumber
    attempt: Count = 1
    seal: Digest
    manifest: Manifest


# researcher → coordinator


class ExperimentStart(Body):
    experiment: dict[str, Any]


class ExperimentAbort(Body):
    pass


class ExperimentPause(Body):
    pass


class ExperimentResume(Body):
    pass


class ExperimentFinish(Body):
    """Ends an experiment with the model that there is."""


class ExperimentExclude(Body):
    """Takes a site out of the rest of an experiment."""

    site: SiteName
    reason: Code


class ModelWanted(Body):
    """Asks for a model that the coordinator keeps: the one that so many rounds made. Nothing is journaled."""

    round: RoundNumber


class ExperimentCheck(Body):
    """Asks which sites are online and would take part; nothing is journaled."""

    experiment: dict[str, Any]
    nonce: EventId


# coordinator → all


class ExperimentAccepted(Body):
    experiment: dict[str, Any]
    digest: Digest
    """`Experiment.digest()` of the file."""
    researcher: SiteName
    original: bytes
    """The researcher's own event, verbatim."""
    enrol_within: float


class ExperimentRefused(Body):
    reason: Code
    mistakes: str = Field("", max_length=4000)
    """The coordinator's own words on an invalid file."""
    event: EventId


class ExperimentChecked(Body):
    """The coordinator passes a check on to the sites."""

    experiment: dict[str, Any]
    researcher: SiteName
    nonce: EventId


class OwnModel(Body):
    """The model of its own that a site trains in a round; its tensors are those of the round's transfer."""

    round: RoundNumber
    attempt: Count
    seal: Digest
    model_digest: Digest


class RoundStart(Body):
    transfer: Transfer
    model_digest: Digest
    sites: Sites
    """Sites that take part."""
    evaluate: bool
    """Score the received model on the validation cases."""
    train_within: float
    own: Annotated[dict[SiteName, OwnModel], at_most(MOST_SITES)] | None = None
    """By site, where each has a model of its own: it trains that instead of the one above."""

    def transfer_to(self, site: str) -> Transfer:
        """The transfer of the model that a site trains."""
        mine = None if self.own is None else self.own.get(site)
        if mine is None:
            return self.transfer
        named = {"round": mine.round, "attempt": mine.attempt, "seal": mine.seal}
        return self.transfer.model_copy(update=named)


class RoundComplete(Body):
    contributors: Annotated[dict[SiteName, Count], at_most(MOST_SITES)]
    """Site → training cases used."""
    left_out: Annotated[dict[SiteName, Code], at_most(MOST_SITES)]
    model_digest: Digest
    """Of the aggregate."""
    validation: SplitScores | None = None
    """Pooled validation scores of the model that this round received, where it was scored."""
    seconds: float


class Candidate(Body):
    """A model that is scored at the end."""

    label: Label
    transfer: Transfer
    model_digest: Digest


class Combined(Body):
    """Models that make one prediction together: an ensemble."""

    label: Label
    rule: Literal["mean", "majority"]
    """Of the probabilities: their mean; or of the votes."""
    weights: Annotated[dict[Label, Share], at_most(MOST_CANDIDATES)]
    """By part; they add up to 1."""
    parts: Annotated[dict[Label, OwnModel], at_most(MOST_CANDIDATES)]
    manifest: Manifest
    """Of each part, exact."""
    model_digest: Digest
    """Of all of it (`name_ensemble`)."""

    @model_validator(mode="after")
    def _each_part_has_a_weight(self) -> Self:
        if not self.parts or self.weights.keys() != self.parts.keys():
            raise ValueError("each part has a weight, and there is one at least")
        return self

    def transfers(self) -> dict[str, Transfer]:
        """By part, the transfer of its model."""
        return {
            label: Transfer(round=one.round, attempt=one.attempt, seal=one.seal, manifest=self.manifest)
            for label, one in self.parts.items()
        }


def name_ensemble(rule: str, parts: Mapping[str, tuple[str, float]]) -> str:
    """SHA-256 (hex) that names an ensemble: over its rule, and each part's label, digest and weight, by label."""
    told = "".join(f"|{label} {digest} {weight!r}" for label, (digest, weight) in sorted(parts.items()))
    return sha256(f"konsil-ensemble-v1|{rule}{told}".encode()).hexdigest()


class EvaluationStart(Body):
    models: Annotated[list[Candidate], at_most(MOST_CANDIDATES)]
    sites: Sites
    evaluate_within: float
    combined: Combined | None = None
    """An ensemble that is scored instead of single models."""

    def transfers(self) -> tuple[Transfer, ...]:
        """All that is to be fetched."""
        parts = () if self.combined is None else tuple(self.combined.transfers().values())
        return (*(one.transfer for one in self.models), *parts)

    def digests(self) -> dict[str, str]:
        """What is to be scored: label → digest."""
        scored = {one.label: one.model_digest for one in self.models}
        return scored if self.combined is None else {**scored, self.combined.label: self.combined.model_digest}


class ExperimentComplete(Body):
    model: Candidate
    """The model the experiment yields, by `evaluation.select_by`."""
    model_round: RoundNumber
    final_digest: Digest
    test: SplitScores | None = None
    """Pooled test scores of the model."""
    rounds: Count
    combined: Combined | None = None
    """The ensemble that the experiment yields; then `model` names it, with the transfer of its first part."""


class ExperimentFailed(Body):
    reason: Code


class ExperimentAborted(Body):
    reason: Code = Reason.ABORTED


class ExperimentPaused(Body):
    reason: Code | None = None


class ExperimentResumed(Body):
    pass


class SiteExcluded(Body):
    """The researcher has excluded a site: the rest of the experiment goes on without it."""

    site: SiteName
    reason: Code


class RegisterAnnounced(Body):
    """The operator's register, as a signed note: who checks events goes by it from then on."""

    note: Annotated[bytes, Field(max_length=MOST_REGISTER_BYTES)]


class LogHead(Body):
    """A signed head of the journal, before what opens a step or ends an experiment (`messages.log`).

    Attributes:
        note: the head as a checkpoint (C2SP tlog-checkpoint).
        old_size, proof: where its consistency proof begins, and the proof (RFC 9162, section 2.1.4).
        opening: the attempt of what follows; 0: the experiment's end.
        witnessed, witness_proof: the head of the opening before with its cosignatures; that this head follows from it.
        fork, fork_proof: the operator's note where the journal was restored; that this head follows from what was.
    """

    note: NoteBytes
    old_size: Count
    proof: Proof
    opening: Count = 1
    witnessed: NoteBytes = b""
    witness_proof: Proof = []
    fork: NoteBytes = b""
    fork_proof: Proof = []


class CoordinatorHello(Body):
    """A coordinator started under a new term: sites answer with hello."""

    versions: Versions


# site → coordinator


class Hello(Body):
    """A site is online; answered with standing. `head`: it lacks a proof that the log follows from its first so many
    entries."""

    versions: Versions
    head: Count | None = None


class CaseCounts(Body):
    found: Count
    used: Count
    left_out: LeftOut = {}
    train: Count
    validation: Count
    test: Count


class Platform(Body):
    """What "same bits" depends on."""

    device_type: Literal["cpu", "cuda"]
    threads: Count
    versions: Versions
    deterministic: bool


class Joined(Body):
    cases: CaseCounts
    platform: Platform


class Declined(Body):
    reason: Code
    cases: CaseCounts | None = None


class RoundAccepted(Body):
    """The site has read a round-start or evaluation-start and takes it on."""


class WeightsReady(Body):
    transfer: Transfer
    cases_used: Count
    cases: CaseCounts
    epochs: Count
    steps: Count
    loss: float | None = None
    seconds: float
    validation: SplitScores | None = None
    """Scores of the received global model."""
    platform: Platform


class RoundFailed(Body):
    """The site cannot deliver this round."""

    reason: Code


class ModelScores(Body):
    model_digest: Digest
    splits: Annotated[dict[Literal["validation", "test"], SplitScores], at_most(2)]


class Evaluated(Body):
    scores: Annotated[dict[Label, ModelScores], at_most(MOST_CANDIDATES)]
    """By candidate."""


class Leaving(Body):
    reason: Code = Reason.LEAVING


class HeadWitnessed(Body):
    """A site has seen that a head of the log follows from all that it saw before, and cosigns it.

    `cosignature`: key id, time and signature, as in a line under the head (C2SP tlog-cosignature).
    """

    size: Count
    root: Digest
    cosignature: Annotated[bytes, Field(min_length=76, max_length=76)]


class Nonce(Body):
    """The coordinator's own mark on uplink: what lies before it has been read."""

    nonce: EventId


class Echo(Body):
    nonce: EventId


# one party's inbox


class Receipt(Body):
    """The coordinator has stored these events of the addressee; they may leave its outbox."""

    events: Annotated[list[EventId], at_most(MOST_RECEIPTS)]


class Refused(Body):
    """An event or update of the addressee was not used, and why."""

    event: EventId
    kind: str = Field(max_length=32)
    reason: Code


class Standing(Body):
    """Where an experiment is, for a site that returns: the coordinator's current events, verbatim."""

    state: Word
    events: Annotated[list[bytes], at_most(8)]


class ChunksWanted(Body):
    round: RoundNumber
    attempt: Count
    seal: Digest
    chunks: Annotated[list[Count], Field(fail_fast=True), at_most(MOST_CHUNKS)] | None = None
    """Indices; None means all."""


# progress: live only


STATES = (
    "idle", "preparing", "fetching", "training", "evaluating", "sending", "paused", "draining", "outside-hours",
    "running", "other",
)  # fmt: skip
"""A site's words, the coordinator's own "running", and what a word of a newer version is read as."""
PHASES = ("preparing", "fetching", "training", "validating", "testing", "sending", "other")
DAY = 86400.0


class Alive(Body):
    """Liveness, every few seconds."""

    state: Annotated[str, Field(pattern=rf"^({'|'.join(STATES)})$"), other_where_unknown(frozenset(STATES))]
    busy_with: str | None = Field(None, pattern=WHOLE_EXPERIMENT)
    """Experiment."""
    queued: Count = 0
    opens_in: float | None = Field(None, ge=0, le=DAY)
    """Seconds until the site's allowed hours begin, where it waits for them."""


class Progress(Body):
    phase: Annotated[
        Literal["preparing", "fetching", "training", "validating", "testing", "sending", "other"],
        other_where_unknown(frozenset(PHASES)),
    ]
    done: Count
    total: Count
    epoch: Count | None = None
    epochs: Count | None = None
    loss: float | None = Field(None, ge=-MOST_LOSS, le=MOST_LOSS)
    eta_seconds: float | None = None
    bytes_down: Count = 0
    bytes_up: Count = 0


class CheckAnswer(Body):
    nonce: EventId
    accepts: bool
    reason: Code | None = None


class EchoReply(Body):
    nonce: EventId
    time: float
    """The coordinator's clock, seconds since 1970."""


class Unknown(Body):
    """What stands for the body of a kind that a newer version has and this one does not know: nothing is read of it."""


class KindSpec(BaseModel):
    """One row of the table of kinds."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    queue: str
    body: type[Body] | None
    history: bool
    senders: frozenset[str]


def _make_row(queue: str, body: type[Body] | None, senders: str, *, history: bool = True) -> KindSpec:
    return KindSpec(queue=queue, body=body, history=history, senders=frozenset(senders.split()))


INBOX, UPDATE = "inbox", "update"

KINDS: Mapping[str, KindSpec] = MappingProxyType(
    ROWS := {
        "experiment-start": _make_row(UPLINK, ExperimentStart, "researcher"),
        "experiment-abort": _make_row(UPLINK, ExperimentAbort, "researcher"),
        "experiment-pause": _make_row(UPLINK, ExperimentPause, "researcher"),
        "experiment-resume": _make_row(UPLINK, ExperimentResume, "researcher"),
        "experiment-finish": _make_row(UPLINK, ExperimentFinish, "researcher"),
        "experiment-exclude": _make_row(UPLINK, ExperimentExclude, "researcher"),
        "model-wanted": _make_row(UPLINK, ModelWanted, "researcher", history=False),
        "experiment-check": _make_row(UPLINK, ExperimentCheck, "researcher", history=False),
        "echo": _make_row(UPLINK, Echo, "researcher site", history=False),
        "nonce": _make_row(UPLINK, Nonce, "coordinator", history=False),
        "hello": _make_row(UPLINK, Hello, "site", history=False),
        "joined": _make_row(UPLINK, Joined, "site"),
        "declined": _make_row(UPLINK, Declined, "site"),
        "round-accepted": _make_row(UPLINK, RoundAccepted, "site"),
        "weights-ready": _make_row(UPLINK, WeightsReady, "site"),
        "round-failed": _make_row(UPLINK, RoundFailed, "site"),
        "evaluated": _make_row(UPLINK, Evaluated, "site"),
        "leaving": _make_row(UPLINK, Leaving, "site"),
        "head-witnessed": _make_row(UPLINK, HeadWitnessed, "site"),
        "experiment-accepted": _make_row(DOWNLINK, ExperimentAccepted, "coordinator"),
        "experiment-refused": _make_row(DOWNLINK, ExperimentRefused, "coordinator"),
        "experiment-checked": _make_row(DOWNLINK, ExperimentChecked, "coordinator", history=False),
        "round-start": _make_row(DOWNLINK, RoundStart, "coordinator"),
        "round-complete": _make_row(DOWNLINK, RoundComplete, "coordinator"),
        "evaluation-start": _make_row(DOWNLINK, EvaluationStart, "coordinator"),
        "experiment-complete": _make_row(DOWNLINK, ExperimentComplete, "coordinator"),
        "experiment-failed": _make_row(DOWNLINK, ExperimentFailed, "coordinator"),
        "experiment-aborted": _make_row(DOWNLINK, ExperimentAborted, "coordinator"),
        "experiment-paused": _make_row(DOWNLINK, ExperimentPaused, "coordinator"),
        "experiment-resumed": _make_row(DOWNLINK, ExperimentResumed, "coordinator"),
        "site-excluded": _make_row(DOWNLINK, SiteExcluded, "coordinator"),
        "register": _make_row(DOWNLINK, RegisterAnnounced, "coordinator"),
        "log-head": _make_row(DOWNLINK, LogHead, "coordinator"),
        "coordinator-hello": _make_row(DOWNLINK, CoordinatorHello, "coordinator", history=False),
        "global-chunk": _make_row(GLOBAL, None, "coordinator", history=False),
        "update-chunk": _make_row(UPDATE, None, "site", history=False),
        "model-chunk": _make_row(MODELS, None, "coordinator", history=False),
        "model-ready": _make_row(MODELS, ExperimentComplete, "coordinator", history=False),
        "journal-entry": _make_row(AUDIT, None, "coordinator", history=False),
        "receipt": _make_row(INBOX, Receipt, "coordinator", history=False),
        "refused": _make_row(INBOX, Refused, "coordinator"),
        "standing": _make_row(INBOX, Standing, "coordinator", history=False),
        "chunks-wanted": _make_row(INBOX, ChunksWanted, "coordinator site", history=False),
        "alive": _make_row(PROGRESS, Alive, "coordinator site", history=False),
        "progress": _make_row(PROGRESS, Progress, "site", history=False),
        "check-answer": _make_row(PROGRESS, CheckAnswer, "site", history=False),
        "echo-reply": _make_row(PROGRESS, EchoReply, "coordinator", history=False),
    }
)

ROUTES: Mapping[str, str] = MappingProxyType({kind: spec.queue for kind, spec in KINDS.items()})
"""Kind → queue; "update" stands for the sender's `update.<site>`, "inbox" for the addressee's inbox."""
