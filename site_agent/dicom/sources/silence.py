"""How long a C-MOVE may say nothing: answers in between are optional (PS3.4, C.4.2.1.6), so objects count too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self


class Silence:
    """Ends an association's wait for an answer once neither an answer nor an object came for `patience` seconds.

    Args:
        made: pynetdicom's association; its own time-out, which knows of answers only, is off meanwhile.
        last: when the last object came (monotonic clock).
    """

    def __init__(self, made: Any, patience: float, last: Callable[[], float]) -> None:
        self._made = made
        self._patience = patience
        self._last = last
        self._answered = time.monotonic()
        self._over = threading.Event()
        self._before: float | None = None
        self._thread = threading.Thread(target=self._watch_silence, name="konsil-move-silence", daemon=True)

    def watch_answers(self, answers: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """The same answers, each counted as a sign of life."""
        for answer in answers:
            self._answered = time.monotonic()
            yield answer

    def __enter__(self) -> Self:
        self._before = self._made.dimse_timeout
        self._made.dimse_timeout = None
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._made.dimse_timeout = self._before

    def _watch_silence(self) -> None:
        while True:
            left = max(self._answered, self._last()) + self._patience - time.monotonic()
            if left <= 0:
                # as pynetdicom itself does when a connection ends: whoever waits for an answer is told there is none
                self._made.dimse.msg_queue.put((None, None))
                return
            if self._over.wait(left):
                return
