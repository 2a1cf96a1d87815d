"""A service that is told to stop while it still starts: it ends at once, with status 0 and one line.

Standard library only, for it is called before anything heavy is imported: that alone takes a second, and Python's own
answer to SIGTERM is to die of it, which looks like a crash to whoever started the service.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_WORD = b"konsil: told to stop while it was starting\n"
_told = False


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
