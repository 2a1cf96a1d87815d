"""Runs a command that cannot outlive its owner, even when that one is killed with SIGKILL.

    python tether.py OWNER_PID COMMAND [ARGUMENT ...]

Sets the kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG; it survives execve) in a session of its own, and
becomes the command. A program of its own and not a `preexec_fn`, because the demo has threads. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(owner: int, command: list[str]) -> None:
    """Never returns: the process becomes `command`, or ends at once where the owner is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        sys.exit(1)  # the owner died before the line above
    os.execvp(command[0], command)  # noqa: S606 - a list of arguments, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
