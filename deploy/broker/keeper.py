"""Keeps one private RabbitMQ node: a small process that starts epmd and the server, and leaves nothing behind.

Run as a script of its own (standard library only, so that it starts at once and stays small)::

    python keeper.py DIRECTORY [OWNER_PID]

Why a process between: the Erlang VM starts helpers (erl_child_setup, inet_gethost) in sessions of their own, and
a service that is killed with SIGKILL cannot clean up after itself. The keeper is a *child subreaper*
(prctl(2), PR_SET_CHILD_SUBREAPER): whatever the node orphans becomes the keeper's child, and is killed by it.
With OWNER_PID it looks twice a second whether its parent is still that process, and ends the node when not.
Should the keeper itself be killed, the kernel kills server and epmd (PR_SET_PDEATHSIG, set between fork and exec by
the keeper's only thread), and the Erlang helpers end when their pipe to the server closes.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOP_WITHIN = 20.0
"""Seconds the server has for an orderly end before it is killed."""

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_keeper() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def list_descendants(root: int) -> list[int]:
    """Process ids below `root`, parents first, read from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:
            continue  # ended while we looked
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _reap_children() -> list[int]:
    """Take the ended children's statuses, adopted ones included; returns their process ids."""
    ended: list[int] = []
    while True:
        try:
            pid, _status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append(pid)


def _kill_all() -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pids = list_descendants(os.getpid())
        if not pids:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _reap_children()
        time.sleep(0.02)
    _reap_children()


def main(directory: Path, owner: int | None) -> int:
    """Run the node described in DIRECTORY/keeper.json until told to stop; 0 after an orderly end."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    plan = json.loads((directory / "keeper.json").read_text())
    environment = plan["environment"]
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    with (directory / "server.out").open("wb") as out:
        epmd, server = (
            subprocess.Popen(
                plan[name],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_keeper,  # safe: the keeper has one thread
            )
            for name in ("epmd", "server")
        )
    status = 0
    while True:
        ended = _reap_children()
        if owner is not None and os.getppid() != owner:
            break  # nobody is left who could want an orderly end
        if server.pid in ended or epmd.pid in ended:
            status = 1
            break
        if stopping:
            status = _end_in_order(server.pid)
            break
        time.sleep(0.1)
    _kill_all()
    return status


def _end_in_order(server: int) -> int:
    """Ask the server to stop and wait; 0 once it has, 1 where it takes too long."""
    os.kill(server, signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN
    while server not in _reap_children():
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
