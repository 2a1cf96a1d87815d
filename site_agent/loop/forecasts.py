"""Looks at experiment files that researchers have checked: one after the other, on one thread beside the main loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import structlog

from messages.ground.clock import Clock

log = structlog.get_logger()
MOST = 16
"""Files that wait; who asks about more gets no answer."""


class Forecasts:
    """The thread lives as long as something waits. Any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._at_work = False

    def look_later(self, look: Callable[[], None]) -> bool:
        """Queue a look; False where too many wait."""
        with self._lock:
            if len(self._waiting) >= MOST:
                return False
            self._waiting.append(look)
            begins, self._at_work = not self._at_work, True
        if begins:
            self._clock.make_thread(self._look, "forecast").start()
        return True

    def _look(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._at_work = False
                    return
                look = self._waiting.popleft()
            try:
                look()
            except Exception:
                log.critical("a forecast failed: a defect", exc_info=True)
