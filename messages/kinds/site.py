"""What a site says to the coordinator; and the marks that both read their streams by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from messages.ground.strictness import at_most
from messages.kinds.base import MOST_CANDIDATES, Body, Code, Count, Digest, EventId, Label, LeftOut, Transfer, Versions
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.statistics.fingerprint import DataFingerprint


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


class PrivacyPlan(Body):
    """What a site's training spends under `[privacy.dp]`, for each of its training patients, or for all of it.

    Not covered are the counts here and in `cases`, and scores of models on validation and test cases.
    """

    unit: Literal["patient", "site"] = "patient"
    noise: Literal["shared"] | None = None
    """"shared": the epsilon holds for the sum of all sites' updates; None: for this site's by itself."""
    colluding: Count | None = None
    """Under "shared": how many sites of the sum may pool what they know, or add no noise; it holds all the same."""
    patients: Count
    """Training patients, rounded as the site's policy says."""
    sample_rate: float
    noise_multiplier: float
    clip_norm: float
    steps: Count
    """Optimiser steps in all rounds."""
    epsilon: float
    """After these steps."""
    delta: float


class Joined(Body):
    cases: CaseCounts
    platform: Platform
    privacy: PrivacyPlan | None = None


class Declined(Body):
    reason: Code
    cases: CaseCounts | None = None


class RoundAccepted(Body):
    """The site has read a round-start or evaluation-start and takes it on."""


class StatisticsReady(Body):
    """The fingerprint of a site's training cases, as its policy lets it leave."""

    statistics: DataFingerprint
    memory_mib: Count | None = None
    """Of the GPU that the site lends, or of a process without one, as its operator declared; None: not declared."""


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
    epsilon: float | None = None
    """Spent so far by what the site has trained in this experiment, this update included."""


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
