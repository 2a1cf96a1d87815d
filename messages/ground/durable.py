"""What is written is whole, and survives a power cut: files replaced, content and names on the disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_out_of_space(error: OSError) -> bool:
    """Whether the disk (or a quota, or a limit of file sizes) had no space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


_waits_for_disks = True


@contextmanager
def without_syncing() -> Iterator[None]:
    """Within, nothing in this process waits for a disk: a power cut may lose what was stored. For simulations alone,
    whose state nobody goes on from; no service calls it."""
    global _waits_for_disks
    before, _waits_for_disks = _waits_for_disks, False
    try:
        yield
    finally:
        _waits_for_disks = before


def choose_synchronous() -> str:
    """What a service's own database, in WAL mode, sets as `PRAGMA synchronous`: a commit survives a power cut."""
    return "FULL" if _waits_for_disks else "OFF"


def sync_to_disk(path: Path) -> None:
    """Have a file's content on the disk, or a folder's names (fsync(2): a new name needs "a separate fsync").

    Raises:
        OSError: it is not there, or the disk fails.
    """
    if not _waits_for_disks:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_file(source: Path, destination: Path) -> None:
    """Make a finished file durable under its name: fsync, rename(2), fsync of the folder.

    Raises:
        OSError: it is not there, or the disk fails.
    """
    sync_to_disk(source)
    os.replace(source, destination)
    sync_to_disk(destination.parent)


@contextmanager
def writing_beside(path: Path) -> Iterator[Path]:
    """A new file's place beside `path`: moved over it at the end, and removed where writing fails.

    A reader finds the old content or the new one, never a part. A killed writer leaves a hidden file behind, which
    nobody takes for `path`. The name holds the process's number: two writers do not meet.

    Raises:
        OSError: whatever the writer meets, and where the file cannot be moved.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes | bytearray, *, mode: int = 0o666, durable: bool = False) -> None:
    """Write a file whole or not at all.

    Args:
        mode: permissions from the first byte on, less the process's umask.
        durable: have content and name on the disk before this returns.

    Raises:
        OSError: no space, no permission; the file that was there before stays.
    """
    with writing_beside(path) as beside:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        if durable:
            sync_to_disk(beside)
    if durable:
        sync_to_disk(path.parent)


OTHERS = 0o077
"""Permission bits of group and others."""


def open_private_folder(folder: Path) -> None:
    """Make a folder that nobody else can look into, or take these rights from one of ours that was made otherwise.

    Whoever starts a service by hand has another umask than its unit, and an older version may have made the folder. One
    that belongs to somebody else is left as it is: who made it decides (a volume of a container, a mounted share).

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
