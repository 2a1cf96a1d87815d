"""SIGTERM to the training process: it ends at once, or, in a round's training, once a checkpoint holds the work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """Training ended because the process was asked to end."""


class Interrupt:
    """Whether the process was asked to end, and whether it has something to save first."""

    def __init__(self) -> None:
        self.asked = False
        self._held = False

    def take_sigterm(self) -> None:
        """Take SIGTERM; the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)

    @contextmanager
    def hold_signal(self) -> Iterator[None]:
        """Within, the signal only sets `asked`."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _on_signal(self, *_: object) -> None:
        self.asked = True
        if not self._held:
            # Nothing here is worth keeping: files are renamed into place when whole.
            os._exit(0)
