"""A queue of messages that keeps so many in memory and the rest in a file without a name; first in, first out.

Nothing here outlives the process: what a journal holds is said again at the next start (`coordinator.core.effects`).
"""

from __future__ import annotations

import struct
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger("coordinator.wire.outgoing")

MOST = 256
"""Messages in memory."""
MOST_BYTES = 2 * 2**20
"""Their bytes; a single one may be of any size."""
_HEAD = struct.Struct(">II")

Message = tuple[str, bytes]
"""Routing key and body."""


class Overflow:
    """Thread-safe.

    Args:
        folder: where the file lies; it is made when it is needed, and has no name in there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._near: deque[Message] = deque()
        self._near_bytes = 0
        self._file: IO[bytes] | None = None
        self._read = self._written = 0
        self._far = 0
        self._behind: deque[Message] = deque()
        """What came when the disk took no more: nothing is lost, and then the journal stands still, too."""
        self._ended = False

    def __len__(self) -> int:
        return len(self._near) + self._far + len(self._behind)

    def put(self, item: Message | None) -> None:
        """Take one more; None: no more come, and `get` tells so once the last one is out."""
        with self._changed:
            if item is None:
                self._ended = True
            elif not self._far and not self._behind and self._fits(item):
                self._put_near(item)
            elif self._behind or not self._put_far(item):
                self._behind.append(item)
            self._changed.notify()

    def get(self) -> Message | None:
        """Wait for the next one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: len(self) or self._ended)
            if not self._near and self._far:
                self._fetch()
            if not self._near:
                self._near, self._behind = self._behind, deque()
                self._near_bytes = sum(len(body) for _key, body in self._near)
            if not self._near:
                return None
            item = self._near.popleft()
            self._near_bytes -= len(item[1])
            return item

    def close(self) -> None:
        """Give the file back. Idempotent."""
        with self._changed:
            if self._file is not None:
                self._file.close()
                self._file, self._far = None, 0

    def _fits(self, item: Message) -> bool:
        return not self._near or (len(self._near) < MOST and self._near_bytes + len(item[1]) <= MOST_BYTES)

    def _put_near(self, item: Message) -> None:
        self._near.append(item)
        self._near_bytes += len(item[1])

    def _put_far(self, item: Message) -> bool:
        """Write it behind what lies in the file; False where the disk takes no more."""
        key, body = item[0].encode(), item[1]
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 (it stays open)
            self._file.seek(self._written)
            record = memoryview(_HEAD.pack(len(key), len(body)) + key + body)
            while record:
                record = record[self._file.write(record) :]
        except OSError as error:
            log.warning("events wait in memory: the disk takes no more of them", error=error.strerror)
            return False
        self._written += _HEAD.size + len(key) + len(body)
        self._far += 1
        return True

    def _fetch(self) -> None:
        """Read as many as memory takes; an emptied file is cut."""
        assert self._file is not None  # noqa: S101 (for mypy: something lies in it)
        while self._far:
            self._file.seek(self._read)
            size, length = _HEAD.unpack(self._read_exactly(_HEAD.size))
            key = self._read_exactly(size).decode()
            item = (key, self._read_exactly(length))
            if not self._fits(item):
                return
            self._put_near(item)
            self._read += _HEAD.size + size + length
            self._far -= 1
        self._file.truncate(0)
        self._read = self._written = 0

    def _read_exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            assert self._file is not None  # noqa: S101 (for mypy)
            more = self._file.read(size - len(found))
            if not more:
                raise OSError("the file ends before what was written into it")
            found += more
        return found
