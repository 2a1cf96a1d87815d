"""The one way to open what lies in a data folder: regular files only, and never waiting for anything.

A folder of a hospital holds what other programs left there: pipes, sockets, devices, links to themselves, names of
another character set. Opening a pipe waits for its other end for ever; so a file is looked at before and after it is
opened, and opened without blocking (open(2), O_NONBLOCK: no effect on a regular file).
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from messages.ground.shown import escape_controls

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


class NotRegular(OSError):
    """What lies there is no regular file; the message says what it is."""


def open_file(path: Path | str) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        NotRegular: it is a pipe, a socket, a device or a folder.
        OSError: it cannot be opened: gone, no permission, a link that leads to itself.
    """
    _require_regular(os.stat(path).st_mode)  # before: opening a device may do something
    descriptor = os.open(path, _FLAGS)
    try:
        _require_regular(os.fstat(descriptor).st_mode)  # after: it may be another one by now
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path | str) -> bytes:
    """All bytes of a regular file; raises as `open_file`."""
    with open_file(path) as file:
        return file.read()


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; False where nobody can tell (a link to itself)."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def show_name(name: object) -> str:
    """A file's name for a line of text: what is no UTF-8 or no letter (line ends, escape sequences) as an escape."""
    return escape_controls(os.fsencode(str(name)).decode("utf-8", "backslashreplace"))


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        what = next((word for is_kind, word in _KINDS if is_kind(mode)), "something else")
        raise NotRegular(f"is {what}, not a file")


__all__ = ["NotRegular", "is_folder", "open_file", "read_file", "show_name"]
