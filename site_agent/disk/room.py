"""How much may still be written under the state directory: the operator's limit and what the disk has."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from messages.ground.clock import Clock, SystemClock
from messages.ground.errors import WorkFailed
from messages.reasons import Reason

KEPT_FREE = 2**30
"""Bytes that preparing data leaves to rounds: models, updates, checkpoints. A tenth of the whole where that is less."""
REMEASURED_SECONDS = 10.0


class StateDiskFull(WorkFailed):
    """No room for prepared data; `messages.reasons.Reason.DISK_FULL`."""

    reason = Reason.DISK_FULL


def used_bytes(state: Path) -> int:
    """Bytes under the state directory."""
    total = 0
    for folder, _folders, files in os.walk(state):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(folder, name).lstat().st_blocks * 512
    return total


def room_left(state: Path, limit: int | None) -> int:
    """Bytes that may still be written; below 0 where the limit is exceeded.

    Args:
        limit: `limits.disk`; None: no limit but the disk's.
    """
    free = shutil.disk_usage(state).free
    return free if limit is None else min(free, limit - used_bytes(state))


class Room:
    """What preparing data may still write: `room_left`, less what rounds need. Not for several threads.

    The state directory is walked now and then only; in between counts what `note_written` was told. Where that leaves
    too little it is walked again, so that what was removed meanwhile counts before anything is refused.
    """

    def __init__(self, state: Path, limit: int | None, clock: Clock | None = None) -> None:
        self._state, self._limit = state, limit
        self._clock: Clock = SystemClock() if clock is None else clock
        whole = shutil.disk_usage(state).total
        self._kept = min(KEPT_FREE, (whole if limit is None else min(limit, whole)) // 10)
        self._left, self._measured = 0, float("-inf")

    def note_written(self, size: int) -> None:
        """So many bytes are about to be written."""
        self._left -= size

    def bytes_lacking(self, size: int) -> int:
        """Bytes by which there is too little room for `size` more; 0 where there is enough."""
        if self._left < size or self._clock.monotonic() - self._measured > REMEASURED_SECONDS:
            self._left = room_left(self._state, self._limit) - self._kept
            self._measured = self._clock.monotonic()
        return max(0, size - self._left)

    def require_room(self, size: int, what: str) -> None:
        """Raise DiskFull where there is too little room for `size` more; else they count as written."""
        if self.bytes_lacking(size):
            raise StateDiskFull(
                f"no room is left for {what}, beside what rounds need",
                where=str(self._state),
                advice="Free disk space, or raise limits.disk in site.toml",
            )
        self.note_written(size)
