"""What one party alone is told, in its inbox."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

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


class ChunksWanted(Body):
    round: RoundNumber
    attempt: Count
    seal: Digest
    chunks: Annotated[list[Count], Field(fail_fast=True), at_most(MOST_CHUNKS)] | None = None
    """Indices; None means all."""
