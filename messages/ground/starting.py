"""The start of a process: what it writes never ends it, whoever it runs as has a name, and SIGTERM ends it in order.

Standard library only, for it is called before anything heavy is imported: that alone takes a second, and Python's own
answer to SIGTERM is to die of it, which looks like a crash to whoever started the service.
"""

from __future__ import annotations

import codecs
import errno
import getpass
import io
import os
import select
import signal
import sys
from types import FrameType
from typing import Any

NOWHERE = "/nonexistent"
"""The home folder of whoever has none, as Debian has it for `nobody`."""

_WORD = b"konsil: told to stop while it was starting\n"
_told = False
_PLAIN = {"✓": "+", "✗": "x", "·": "-", "…": "...", "→": "->", "–": "-", "—": "-", "×": "x", "≥": ">=", "≤": "<="}
_ERRORS = "konsil-plain"


def settle_process() -> None:
    """Make a process ready for where it was started: first of all that its entry point calls.

    Descriptors 0, 1 and 2 are open: else the next file that is opened would be standard output. Standard output and
    error take any text and any failure (`UnfailingFile`). User and home folder have a name (`name_user`).
    """
    _fill_descriptors()
    codecs.register_error(_ERRORS, _spell_plainly)
    sys.stdout = _open_stream(1, sys.stdout)
    sys.stderr = _open_stream(2, sys.stderr)
    os.environ.update(name_user())


def name_user() -> dict[str, str]:
    """Environment variables for a user that the machine's user database does not know, as containers have them.

    Without them `getpass.getuser` and `Path.home` raise, and with them whatever uses these on import (MONAI,
    matplotlib). Empty where all is known.
    """
    named: dict[str, str] = {}
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        named["LOGNAME"] = f"uid-{os.getuid()}"
    if not os.path.isabs(os.path.expanduser("~")):
        named["HOME"] = NOWHERE
    return named


class UnfailingFile(io.FileIO):
    """A descriptor to write to, whose failures are kept and not raised: a full disk or a reader that went ends no work.

    Attributes:
        failure: the last one; what was written then is lost.
    """

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        """All of `content`, or as if."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        while rest:
            try:
                written = super().write(rest)
                if written is None:  # not blocking, and full: another program has set it so
                    select.select([], [self.fileno()], [])
                    continue
            except OSError as error:
                self.failure = error
                break
            rest = rest[written:]
        return size


def output_failure() -> OSError | None:
    """Why standard output could not be written, or None."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, UnfailingFile) else None


def reader_went() -> bool:
    """Whether nobody reads standard output any more (`| head -1`): no fault of anybody's, but an end to watching."""
    failure = output_failure()
    return failure is not None and failure.errno == errno.EPIPE


def end_on_sigterm() -> None:
    """From now on SIGTERM ends the process in order (SystemExit); the service's own handler takes over later."""
    signal.signal(signal.SIGTERM, _end_in_order)


def was_told_to_stop() -> bool:
    """Whether SIGTERM came: where it came, Python may have had to ignore the exception (a finalizer, a callback)."""
    return _told


def _end_in_order(number: int, _frame: FrameType | None) -> None:
    global _told
    _told = True
    signal.signal(number, signal.SIG_DFL)  # who asks twice does not want to wait for what closes in order
    os.write(2, _WORD)  # print may be in the middle of a line of its own
    raise SystemExit(0)


def _fill_descriptors() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            os.set_inheritable(number, True)


def _open_stream(number: int, before: Any) -> io.TextIOWrapper:
    """A text stream on the descriptor in the encoding of the one before it; what it cannot say, it says in ASCII."""
    try:
        raw = UnfailingFile(number, "w", closefd=False)
    except OSError:  # a folder
        raw = UnfailingFile(os.devnull, "w")
    encoding = getattr(before, "encoding", None) or "utf-8"
    lines = number == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=_ERRORS, line_buffering=lines)


def _spell_plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    spelt = (_PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in text)
    return "".join(spelt), error.end
