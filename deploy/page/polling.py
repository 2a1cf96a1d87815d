"""Something looked at again and again on a thread of its own, for pages whose source does not call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from messages.ground.errors import KonsilError

T = TypeVar("T")
LEAST_REST = 0.5


class Poller(Generic[T]):
    """Looks now, and then every so many seconds.

    Args:
        look: what is called; whatever it raises is kept as words.
        every: seconds between two looks; after a long one as long again.

    Attributes:
        found: what the last look that succeeded found; None: none has.
        found_at: when, seconds since 1970.
        trouble: why the latest look failed; "".
    """

    def __init__(self, look: Callable[[], T], every: float) -> None:
        self._look, self._every = look, every
        self.found: T | None = None
        self.found_at: float | None = None
        self.trouble = ""
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="look", daemon=True)

    def look_once(self) -> None:
        """One look, by whoever calls."""
        try:
            self.found = self._look()
            self.found_at, self.trouble = time.time(), ""
        except KonsilError as error:
            self.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - the page stays, and says what it cannot see
            self.trouble = f"{type(error).__name__}: {error}"

    def start(self) -> None:
        """Look once, then go on alone."""
        self.look_once()
        self._thread.start()

    def _poll(self) -> None:
        rest = self._every
        while not self._ends.wait(rest):
            began = time.monotonic()
            self.look_once()
            rest = max(self._every, time.monotonic() - began, LEAST_REST)

    def close(self) -> None:
        """Look no more."""
        self._ends.set()
