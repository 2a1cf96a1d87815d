"""The processes that make cases, as many as cores: a study each at a time, so that memory is bounded by them.

`concurrent.futures` pickles tasks and verdicts between processes of one program; nothing from outside is unpickled.
A process that a damaged file kills takes nothing with it but its own study.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

import structlog

from messages.ground.kernel import die_with_parent
from messages.reasons import Reason
from site_agent.dicom.prepared.index import StudyVerdict
from site_agent.dicom.preparing.making import CaseTask, make_case

log = structlog.get_logger()

MOST_SECONDS = 1800.0
"""What one study may take. The largest that were seen take two minutes on a slow machine."""


class Makers:
    """Makes cases in `processes` processes, or in this one where that is 0. A context manager.

    In this one a decoder that crashes or hangs would take all down: where images are foreign, give it a process.

    Args:
        alive: called about once a second while a case is waited for.
    """

    def __init__(self, processes: int, alive: Callable[[], None]) -> None:
        self._processes, self._alive = processes, alive
        self._pool: ProcessPoolExecutor | None = None
        self._tasks: dict[Future[StudyVerdict], CaseTask] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def give_task(self, task: CaseTask) -> Iterator[tuple[CaseTask, StudyVerdict]]:
        """Have a case made; yields what is done by now. Waits while each process has one and one more to go on with."""
        if self._processes < 1:
            yield task, make_case(task)
            return
        if self._pool is None:
            self._pool = open_processes(self._processes, begin_worker, os.getpid())
        if self._pool is None:
            self._processes = 0
            yield task, make_case(task)
            return
        try:
            self._tasks[self._pool.submit(make_in_time, task, MOST_SECONDS, make_case)] = task
        except BrokenProcessPool:
            yield from self._one_by_one([task])
        while len(self._tasks) > 2 * self._processes:
            yield from self._next_made()

    def await_rest(self) -> Iterator[tuple[CaseTask, StudyVerdict]]:
        """Wait for everything that is still being made."""
        while self._tasks:
            yield from self._next_made()

    def _next_made(self) -> Iterator[tuple[CaseTask, StudyVerdict]]:
        done, _ = wait(self._tasks, timeout=1.0, return_when=FIRST_COMPLETED)
        self._alive()
        for future in done:
            task = self._tasks.pop(future, None)
            if task is None:
                continue
            try:
                verdict = future.result()
            except BrokenProcessPool:
                suspects = [task, *self._tasks.values()]
                self._tasks.clear()
                yield from self._one_by_one(suspects)
                return
            yield task, verdict

    def _one_by_one(self, suspects: list[CaseTask]) -> Iterator[tuple[CaseTask, StudyVerdict]]:
        """A process died, and which study it was is not told: each in a process of its own, to find out."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        for task in suspects:
            with _open_pool(1, begin_worker, os.getpid()) as pool:
                try:
                    verdict = pool.submit(make_in_time, task, MOST_SECONDS, make_case).result()
                except BrokenProcessPool:
                    text = "the process that read it died or stood still: damaged, or too large for this machine"
                    # Without a print it is tried again at the next preparation.
                    verdict = StudyVerdict(task.patient, "", Reason.UNDECODABLE_PIXELS, text, series=task.series)
            self._alive()
            yield task, verdict


def open_processes(count: int, begin: Callable[..., None], *given: Any) -> ProcessPoolExecutor | None:
    """Processes that wait for work; None where this machine gives none: no /dev/shm, or a read-only one.

    Args:
        begin: called with `given` in each process before anything else.
    """
    try:
        return _open_pool(count, begin, *given)
    except (OSError, ImportError, NotImplementedError) as error:  # as sem_open(3) and Python's own check have it
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        log.warning("no processes of its own: images are read in this one (is there no /dev/shm?)", error=why)
        return None


def _open_pool(count: int, begin: Callable[..., None], *given: Any) -> ProcessPoolExecutor:
    # "spawn": this process may have threads and a trainer's libraries, which do not survive a fork.
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=begin, initargs=given)


def make_in_time(task: CaseTask, seconds: float, make: Callable[[CaseTask], StudyVerdict]) -> StudyVerdict:
    """`make_case`; the process ends where it takes longer than `seconds`, even within a decoder that stands still.

    A thread of the interpreter's own sees to that (faulthandler), which needs nothing of the one that works.
    """
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            return make(task)
        finally:
            faulthandler.cancel_dump_traceback_later()


def begin_worker(parent: int) -> None:
    """End with the parent, even a killed one (prctl(2)); Ctrl-C in a terminal is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not die_with_parent(parent):
        os._exit(1)
