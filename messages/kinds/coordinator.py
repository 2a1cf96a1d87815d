"""What the coordinator says to all."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from messages.ground.strictness import at_most
from messages.kinds.base import (
    MOST_CANDIDATES,
    MOST_REGISTER_BYTES,
    Body,
    Code,
    Count,
    Digest,
    EventId,
    Label,
    NoteBytes,
    Proof,
    RoundNumber,
    Share,
    SiteName,
    Sites,
    Transfer,
    Versions,
)
from messages.kinds.secure import PooledFigures, SecureStart
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.sections import MOST_SITES
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import DataFingerprint
from messages.tensors.codecs import CODECS
from messages.tensors.layout import Manifest


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


class StatisticsStart(Body):
    """Before anything is trained, sites are asked for the fingerprint of their training cases."""

    sites: Sites
    within: float


class StatisticsPooled(Body):
    """What the sites told together, and what follows from it."""

    statistics: DataFingerprint
    contributors: Annotated[dict[SiteName, Count], at_most(MOST_SITES)]
    """Site → training cases that it told of."""
    left_out: Annotated[dict[SiteName, Code], at_most(MOST_SITES)]
    memory_mib: Count | None = None
    """The least that one of them declared."""
    configuration: Configuration | None = None
    """What the experiment goes on with; None: it ends with the statistics."""


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
    going_on: Annotated[dict[SiteName, RoundNumber], at_most(MOST_SITES)] | None = None
    """By site that goes on with what it does for an earlier round, which round that is; the others train this model."""
    secure: SecureStart | None = None
    """Of a secure round, whose sites answer with `secure-keys` first."""

    def transfer_to(self, site: str) -> Transfer:
        """The transfer of the model that a site trains."""
        mine = None if self.own is None else self.own.get(site)
        if mine is None:
            return self.transfer
        named = {"round": mine.round, "attempt": mine.attempt, "seal": mine.seal}
        return self.transfer.model_copy(update=named)

    def find_attested(self, site: str) -> str:
        """What a site's update says of the model that it began with: its digest; in a codec that is not exact, the seal
        of the bytes that came."""
        mine = None if self.own is None else self.own.get(site)
        if not CODECS[self.transfer.manifest.codec].exact:
            return self.transfer_to(site).seal
        return self.model_digest if mine is None else mine.model_digest


class RoundComplete(Body):
    contributors: Annotated[dict[SiteName, Count], at_most(MOST_SITES)]
    """Site → training cases used."""
    left_out: Annotated[dict[SiteName, Code], at_most(MOST_SITES)]
    model_digest: Digest
    """Of the aggregate."""
    validation: SplitScores | None = None
    """Pooled validation scores of the model that this round received, where it was scored."""
    seconds: float
    staleness: Annotated[dict[SiteName, Count], at_most(MOST_SITES)] | None = None
    """By contributor whose update began with an earlier round's model, how many rounds earlier that was."""
    pooled: PooledFigures | None = None
    """Of a secure round: only pooled figures exist."""


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
    secure: SecureStart | None = None
    """Of a secure evaluation, whose sites answer with `secure-keys` first."""

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
