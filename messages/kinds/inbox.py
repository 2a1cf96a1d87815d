"""What one party alone is told, in its inbox."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from messages.ground.naming import WHOLE_EXPERIMENT
from messages.ground.strictness import at_most
from messages.kinds.base import MOST_CHUNKS, MOST_RECEIPTS, Body, Code, Count, Digest, EventId, RoundNumber, Word


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


MOST_PARTS = 1024
WholeExperiment = Annotated[str, Field(pattern=WHOLE_EXPERIMENT)]


class PartHeard(Body):
    """What was heard of a site in an experiment that it has joined.

    Attributes:
        round, opening: the open step that it takes part in; 0: none.
        attempt: of the newest update that it announced in that round; 0: none.
        reported: whether its part in the step is here.
    """

    round: RoundNumber = 0
    opening: Count = 1
    attempt: Count = 0
    reported: bool = False


class LastHeard(Body):
    """Where the addressee was when it was last heard, in answer to its hello: one whose disk went back in time goes on
    above that.

    Attributes:
        incarnation, seq: of its newest history event; 0: none was heard.
        digest: SHA-256 of that event's payload.
        parts: by experiment that is not over.
        private: experiments with differential privacy that it ever joined; None: too many, or not said.
    """

    incarnation: Count
    seq: Count
    digest: Digest | None = None
    parts: Annotated[dict[WholeExperiment, PartHeard], at_most(MOST_PARTS)] = {}
    private: Annotated[list[WholeExperiment], Field(fail_fast=True), at_most(MOST_PARTS)] | None = None


class ChunksWanted(Body):
    round: RoundNumber
    attempt: Count
    seal: Digest
    chunks: Annotated[list[Count], Field(fail_fast=True), at_most(MOST_CHUNKS)] | None = None
    """Indices; None means all."""
