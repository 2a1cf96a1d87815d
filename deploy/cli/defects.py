"""What no part of the command explained: the machine's refusals as one line, and where a defect's traceback goes."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.extras import blame_missing
from messages.ground.errors import KonsilError, WorkFailed

OF_THE_MACHINE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
    }
)
"""Errors that say something of the machine or of a path that somebody gave, and nothing of this program."""


def blame_machine(error: BaseException) -> KonsilError | None:
    """An error of the operating system, or an extra that is not installed, in one line; None: it may be a defect."""
    if isinstance(error, ModuleNotFoundError):
        return blame_missing(error)
    if not isinstance(error, OSError) or error.errno not in OF_THE_MACHINE:
        return None
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    advice = "Check the path and its permissions, and that the disk has room"
    return WorkFailed(f"{error.strerror}", where=where, advice=advice)


def record_defect(arguments: Sequence[str]) -> Path | None:
    """Write the traceback being handled to a file; None where no folder takes it. Never raises an OSError.

    Args:
        arguments: of the command, whatever bytes they hold.
    """
    name = f"defect-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = f"konsil {' '.join(arguments)}\n\n{traceback.format_exc()}"
    for folder in _list_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return folder / name
    return None


def _list_folders() -> Iterator[Path]:
    """The user's own folder for state, then the one for what is temporary."""
    base = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    if base.is_absolute():  # not so where nobody knows the user's home
        yield base / "konsil"
    try:
        yield Path(tempfile.gettempdir())
    except OSError:  # none can be written
        return
