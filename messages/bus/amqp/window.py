"""How much may be unconfirmed: so many bytes, and no more than some seconds of the rate at which confirms come.

At 1 Mbit/s, 16 MiB in flight are two minutes, in which an abort waits, nothing tells whether the line lives, and a cut
connection loses everything that the broker had not confirmed. So the window follows the *delivery rate* that each
confirm shows: bytes confirmed between a message's start and its confirm, over the time between (Cheng et al., "Delivery
Rate Estimation", draft-cheng-iccrg-delivery-rate-estimation). It opens as TCP's slow start does, by at most what was
confirmed, and narrows only where it was the window that held the sender back: an idle sender says nothing of the line.
No clock and no lock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 64 * 2**10
FIRST = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Departure:
    """What is remembered of a message when it starts: time, bytes confirmed until then, whether the window was full."""

    at: float
    confirmed: int
    pressed: bool


class Window:
    """The bound on unconfirmed bytes.

    Args:
        most: bytes that may be unconfirmed at any rate.
        seconds: of the rate lately seen.
        first: bytes before anything is known of the line.
        least: bytes that it never narrows below.
    """

    def __init__(self, most: int, seconds: float, first: int = FIRST, least: int = LEAST) -> None:
        self._most, self._seconds = most, seconds
        self._least, self._first = min(least, most), min(max(first, least), most)
        self._confirmed = 0
        self.limit = self._first
        """Bytes that may be unconfirmed now."""

    def allows_message(self, in_flight: int, size: int) -> bool:
        """Whether one more message may start; alone, one of any size may."""
        return not in_flight or in_flight + size <= self.limit

    def note_departure(self, now: float, in_flight: int) -> Departure:
        """A message starts; `in_flight` counts it."""
        return Departure(now, self._confirmed, 2 * in_flight >= self.limit)

    def note_confirm(self, size: int, departure: Departure | None, now: float) -> None:
        """A message of `size` bytes was confirmed; without departure where it was sent more than once."""
        self._confirmed += size
        if departure is None:
            return
        waited = max(now - departure.at, 1e-6)
        target = int((self._confirmed - departure.confirmed) / waited * self._seconds)
        if target > self.limit:
            self.limit = min(target, self.limit + size, self._most)
        elif departure.pressed:
            self.limit = max(target, self._least)

    def restart_window(self) -> None:
        """The connection is another one, maybe over another line."""
        self.limit = self._first
