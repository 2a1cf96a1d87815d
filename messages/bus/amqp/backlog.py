"""What a connection has handed over and nobody has acknowledged yet, and how it waits for that.

Credit alone bounds nothing here: RabbitMQ sends a stream's messages by the stored batch (osiris chunk), whatever is
left of the consumer's credit, and a batch is what a publisher had in flight. Measured on 3.10.8: 30 streams of credit 1
had 77 messages of 1 MiB handed over at once. So a connection that has more than `most` bytes handed over reads on only
as they are acknowledged; then TCP holds the broker back. Measured with 30 sites of 30 MB (`benchmarks.rounds`): a
coordinator 33 MB above idle. Tried on top: blocks from 256 KiB on mapped on their own (mallopt(3), M_MMAP_THRESHOLD):
22 MB, and half a CPU second more in a round of 240 MB for the page faults.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

MOST = 16 * 2**20
"""Bytes handed over before the connection waits. Sixteen chunks: for how many sites there are makes no difference."""
PAUSE = 0.05
"""The longest wait at a time, seconds: heartbeats and acknowledgements go on, and where whoever took the messages is
stuck (a disk that hangs), they come slowly, up to what credit allows."""


class Backlog:
    """Bytes handed over, by attachment. Thread-safe."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._held: dict[Hashable, int] = {}
        self._total = 0
        self._changed = threading.Condition()

    @property
    def total(self) -> int:
        """Bytes that are not acknowledged."""
        return self._total

    def add_message(self, attachment: Hashable, size: int) -> None:
        """A message is handed over."""
        with self._changed:
            self._held[attachment] = self._held.get(attachment, 0) + size
            self._total += size

    def remove_message(self, attachment: Hashable, size: int | None = None) -> None:
        """A message is acknowledged, or (None) the attachment has ended; one that has ended is known no more."""
        with self._changed:
            held = self._held.get(attachment, 0)
            size = held if size is None else min(size, held)
            if size == held:
                self._held.pop(attachment, None)
            else:
                self._held[attachment] = held - size
            self._total -= size
            self._changed.notify_all()

    def pause_while_full(self) -> None:
        """Wait, for `PAUSE` at most, while too much is handed over; a single message may be of any size."""
        if self._total > self._most:
            with self._changed:
                self._changed.wait_for(lambda: self._total <= self._most, PAUSE)
