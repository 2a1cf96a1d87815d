"""What is done only every so often."""

from __future__ import annotations

from messages.ground.clock import Clock


class Pace:
    """Remembers when what was last done. Any thread; where two ask at once, both may be told yes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def is_due(self, what: str, every: float) -> bool:
        """Whether `every` seconds have passed since this last said yes; the first time it does."""
        now = self._clock.monotonic()
        last = self._last.get(what)
        if last is not None and now - last < every:
            return False
        self._last[what] = now
        return True
