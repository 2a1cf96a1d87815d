"""A process that ends with the one that started it, even a killed one. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> bool:
    """Have the kernel end this process (SIGKILL) with the thread that started it (prctl(2), PR_SET_PDEATHSIG).

    Args:
        parent: the process id of the starter, as it knew it.

    Returns:
        False where the starter has gone already: then nothing will end this process, and it ends itself.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent
