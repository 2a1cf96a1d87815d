"""Politeness to a source: so many associations at a time, and so many bytes a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """When a line of so many bytes a second is free again (seconds of a monotonic clock). Pure."""

    rate: float
    free_at: float = 0.0

    def carry_bytes(self, size: int, now: float) -> Line:
        """The line after `size` bytes that came at `now`: bytes that came early are waited for by the next."""
        return Line(self.rate, max(self.free_at, now) + size / self.rate)

    def seconds_to_wait(self, now: float) -> float:
        """Seconds until the line is free, 0 where it is."""
        return max(0.0, self.free_at - now)


class Pace:
    """Bounds what one source is asked for; safe among threads.

    Args:
        associations: most at a time.
        rate: bytes a second over all of them; None: as fast as it comes.
    """

    def __init__(self, associations: int, rate: int | None) -> None:
        self._slots = threading.BoundedSemaphore(associations)
        self._line = Line(float(rate)) if rate else None
        self._lock = threading.Lock()

    @contextmanager
    def hold_association(self) -> Iterator[None]:
        """Wait for one of the associations, and hold it for the block."""
        with self._slots:
            yield

    def take_bytes(self, size: int) -> None:
        """`size` bytes came: wait until the next may. The sender notices by the answer that it waits for."""
        if self._line is None:
            return
        with self._lock:
            now = time.monotonic()
            self._line = self._line.carry_bytes(size, now)
            wait = self._line.seconds_to_wait(now)
        if wait:
            time.sleep(wait)
