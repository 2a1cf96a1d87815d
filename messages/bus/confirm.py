"""The confirm of one publish, as both buses hand it out."""

from __future__ import annotations

from messages.ground.clock import Event
from messages.ground.errors import KonsilError


class Receipt:
    """A `Confirm`: settled once, by the broker's answer or by an error.

    Args:
        event: one that is not set, of the clock by which it is waited for.
    """

    __slots__ = ("_error", "_event")

    def __init__(self, event: Event) -> None:
        self._event = event
        self._error: KonsilError | None = None

    @property
    def done(self) -> bool:
        """Whether the broker has answered, or never will."""
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """True once confirmed, False on time-out; raises the error that befell the publish."""
        if not self._event.wait(timeout):
            return False
        if self._error is not None:
            raise self._error
        return True

    def settle(self, error: KonsilError | None = None) -> None:
        """Answer; later answers are ignored."""
        if not self._event.is_set():
            self._error = error
            self._event.set()
