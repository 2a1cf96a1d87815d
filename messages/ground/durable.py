"""What is written survives a power cut: whole writes, and content and names on the disk."""

from __future__ import annotations

import os
from pathlib import Path


def write_all(descriptor: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write everything, at an offset or where the file stands.

    Raises:
        OSError: a filling disk takes a part of the bytes first, and says nothing (write(2)); then there is no space.
    """
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest) if offset is None else os.pwrite(descriptor, rest, offset)
        rest = rest[written:]
        offset = None if offset is None else offset + written


def sync(path: Path) -> None:
    """Have a file's content on the disk, or a folder's names (fsync(2): a new name needs "a separate fsync").

    Raises:
        OSError: it is not there, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
