"""What a process asks the kernel for: many open files, and an end with the process that started it.

Standard library only: a training process imports it first.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

ENOUGH = 65536
_PR_SET_PDEATHSIG = 1


def allow_many_files(most: int = ENOUGH) -> int:
    """Raise the soft limit of open files to the hard one, or to `most` if that is less; returns what holds now.

    The soft limit is 1,024 for the sake of select(2) (https://0pointer.net/blog/file-descriptor-limits.html), which
    nothing here uses. A coordinator holds one descriptor for each mapped update that it averages (Python's mmap keeps
    one) and two for each update that it receives: 1,000 sites need more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def die_with_parent(parent: int) -> bool:
    """Have the kernel end this process (SIGKILL) with the thread that started it (prctl(2), PR_SET_PDEATHSIG).

    Args:
        parent: the process id of the starter, as it knew it.

    Returns:
        False where the starter has gone already: then nothing will end this process, and it ends itself.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent
