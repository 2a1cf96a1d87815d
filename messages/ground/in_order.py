"""Work on single items is done on all of the machine's cores, and comes back in the items' order.

What comes back does not depend on the number of processes.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import current_process, get_context
from typing import TypeVar

from messages.ground.errors import WorkFailed
from messages.ground.kernel import die_with_parent

Item = TypeVar("Item")
Found = TypeVar("Found")
Job = Callable[[], Found]
"""Work that can be pickled."""
LARGE = 2**27
"""Bytes of work from which on processes are worth their start: what comes before is done here."""
MOST = 16
UNDER_WAY = 4
"""Jobs of a process that are handed out and not back yet, at the most."""


def count_processes() -> int:
    """How many processes may work: one for each core that this process may use; 1: none beside it, as a daemonic
    process of `multiprocessing` has to do without."""
    return 1 if current_process().daemon else min(len(os.sched_getaffinity(0)), MOST)


def run_in_order(
    items: Iterable[tuple[Item, Job[Found] | None, int]], processes: int | None = None
) -> Iterator[tuple[Item, Found | None]]:
    """Each item with what its job found.

    Args:
        items: item, its job, bytes that this works on.
        processes: None: as many as the machine has cores; 1: jobs are done here.

    Raises:
        WorkFailed: a process ended.
    """
    processes = count_processes() if processes is None else processes
    waiting: deque[tuple[Item, Future[Found] | None]] = deque()
    jobs = done = 0
    pool: ProcessPoolExecutor | None = None
    with ExitStack() as stack:
        for item, job, size in items:
            done += size
            if job is not None and (processes == 1 or done <= LARGE):
                yield item, job()
                continue
            if job is not None and pool is None:
                # "spawn": the same on every system, and whatever threads this process has.
                pool = ProcessPoolExecutor(processes, get_context("spawn"), begin_worker, (os.getpid(),))
                stack.callback(pool.shutdown, cancel_futures=True)
            waiting.append((item, None if job is None or pool is None else pool.submit(job)))
            jobs += job is not None
            while waiting and (waiting[0][1] is None or jobs > UNDER_WAY * processes):
                first, future = waiting.popleft()
                jobs -= future is not None
                yield first, _take_back(future)
        while waiting:
            first, future = waiting.popleft()
            yield first, _take_back(future)


def begin_worker(parent: int) -> None:
    """How a process of a pool begins: it leaves the terminal's interrupts to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not die_with_parent(parent):
        os._exit(1)


def _take_back(future: Future[Found] | None) -> Found | None:
    try:
        return None if future is None else future.result()
    except BrokenProcessPool:
        raise WorkFailed(
            "a process that took part in the work ended", advice="Too little memory, perhaps: try again"
        ) from None
