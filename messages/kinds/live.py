"""What is said live and never kept: signs of life, progress, answers to a check."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from messages.ground.naming import WHOLE_EXPERIMENT
from messages.kinds.base import MOST_LOSS, Body, Code, Count, EventId
from messages.words import other_where_unknown

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
