"""Where to read a stream after a (re)attach: a small state machine, pure, used by every bus.

A stored offset can be a trap: a stream that was wiped and declared again keeps silent for a consumer at an old offset
until its own new messages reach it, and retention makes a consumer jump ahead. So a consumer with a stored position
reads again from that very offset, and goes on only if the message there is still the one that it stored. Otherwise it
attaches at first, and its owner drops duplicates by event id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from messages.bus.base import Position, Start, digest_of


class Mode(StrEnum):
    """What a cursor does with the next message."""

    FOLLOWING = "following"
    VERIFYING = "verifying"


class CursorVerdict(StrEnum):
    """What to do with a message that came."""

    DELIVER = "deliver"
    DROP = "drop"
    """It is the stored message itself: give its credit back, and go on."""
    REWIND = "rewind"
    """The stream is not the one that was stored: attach again, at first."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """One attachment of a stream consumer.

    Args:
        offset: what to attach at: an offset, "first" or "next" (RabbitMQ's x-stream-offset).
        stored: the position to verify, None where there is nothing (more) to verify.
    """

    offset: int | str
    stored: Position | None = None

    @property
    def mode(self) -> Mode:
        """Whether the stored position still waits for its proof."""
        return Mode.FOLLOWING if self.stored is None else Mode.VERIFYING


def attach(position: Position | None, start: Start) -> Cursor:
    """The cursor of a fresh attachment, given what the service has stored."""
    if position is None:
        return Cursor(start.value)
    return Cursor(position.offset, position)


def on_message(cursor: Cursor, offset: int, body: bytes) -> tuple[Cursor, CursorVerdict]:
    """Judge the message that came at `offset`."""
    if cursor.stored is None:
        return cursor, CursorVerdict.DELIVER
    if offset == cursor.stored.offset and digest_of(body) == cursor.stored.digest:
        return replace(cursor, stored=None), CursorVerdict.DROP
    return rewound(), CursorVerdict.REWIND


def on_silence(cursor: Cursor) -> tuple[Cursor, CursorVerdict]:
    """Judge that nothing came within the deadline; only while verifying does silence mean anything."""
    if cursor.stored is None:
        return cursor, CursorVerdict.DELIVER
    return rewound(), CursorVerdict.REWIND


def rewound() -> Cursor:
    """The cursor after a mismatch: at first, with nothing to verify."""
    return Cursor(Start.FIRST.value)
