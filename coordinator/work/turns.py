"""What waits for a pool, with fair turns: one researcher's hundred jobs hold up no other's one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from messages.ground.clock import Pool
from messages.ground.fairness import choose_turn, note_turn


class FairPool:
    """A pool whose jobs take turns by owner. Each thread that becomes free takes the job whose turn it is then."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Callable[[], None]]] = []
        self._served: tuple[str, ...] = ()

    def submit_job(self, owner: str, job: Callable[[], None]) -> None:
        """Queue a job; RuntimeError where the pool takes no more."""
        with self._lock:
            self._pool.submit(self._do_next)
            self._waiting.append((owner, job))

    def stop(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def await_end(self) -> None:
        """Wait until nothing runs; once it was stopped."""
        self._pool.shutdown(wait=True)

    def _do_next(self) -> None:
        with self._lock:
            owner, job = self._waiting.pop(choose_turn([owner for owner, _job in self._waiting], self._served))
            self._served = note_turn(self._served, owner)
        job()
