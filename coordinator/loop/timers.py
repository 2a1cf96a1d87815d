"""Which timers are due, and the gate that holds them back while messages may lie unread."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import uuid4

from coordinator.core.state import ExperimentState, Timer


class Gate:
    """Closed from a start or a lost connection until our own mark has come back on uplink.

    What lies before the mark has then been read, so no deadline closes a round whose updates lie unread.
    """

    def __init__(self) -> None:
        self.nonce: str | None = None
        self.lost_at: float | None = None
        self.closed = True
        self._written: set[str] = set()

    def close_with_mark(self) -> str:
        """Close; returns the nonce to publish."""
        self.closed = True
        self.nonce = uuid4().hex
        self._written.add(self.nonce)
        return self.nonce

    def wrote_nonce(self, nonce: str) -> bool:
        """Whether a nonce is one of this process."""
        return nonce in self._written

    def note_loss(self, now: float) -> None:
        """The connection broke."""
        self.closed = True
        self.nonce = None
        if self.lost_at is None:
            self.lost_at = now

    def read_mark(self, nonce: str) -> bool:
        """A nonce came on uplink; True if it is ours and opens the gate."""
        if nonce != self.nonce:
            return False
        self.closed = False
        self.nonce = None
        return True


def list_due(states: Mapping[str, ExperimentState], now: float) -> list[tuple[float, str, Timer]]:
    """Timers that are due, the earliest first."""
    return sorted(
        (moment, name, timer)
        for name, state in states.items()
        for timer, moment in state.timers.items()
        if moment <= now
    )


def next_due(states: Mapping[str, ExperimentState], spared: Mapping[tuple[str, str], float]) -> float | None:
    """When the next timer is due; a spared one, (experiment, timer), not before the time that it is spared until."""
    return min(
        (
            max(moment, spared.get((name, timer), 0.0))
            for name, state in states.items()
            for timer, moment in state.timers.items()
        ),
        default=None,
    )
