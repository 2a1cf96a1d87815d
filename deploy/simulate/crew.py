"""The warm workers that train for all simulated sites. In real time: nothing here knows of virtual time."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.machine import share_gpus
from deploy.demo.processes import last_words
from messages.ground.errors import KonsilError, WorkFailed
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import (
    CheckpointEvent,
    Evaluate,
    Measure,
    Prepare,
    Prepared,
    Progress,
    Reply,
    Request,
    Train,
    Written,
)

PROGRAM = (sys.executable, "-m", "deploy.simulate.worker")
TELL_EVERY = 5.0
"""Real seconds between two words on work that is waited for."""
ENDED_WITHIN = 5.0


class Task:
    """One request of a site's, and what came of it."""

    def __init__(self, site: str, prepare: Prepare, request: Train | Evaluate | Measure | None) -> None:
        self.site, self.prepare, self.request = site, prepare, request
        self.replies: list[Reply] = []
        """In their order, without `Progress` and `CheckpointEvent`; the last one is the answer."""
        self.error: KonsilError | None = None
        self.over = threading.Event()


@dataclass
class _Worker:
    """One process and what it does. `site`: whose session it has open."""

    number: int
    log: Path
    process: TrainerProcess | None = None
    task: Task | None = None
    site: str | None = None
    latest: Progress | None = None


class Crew:
    """So many worker processes, started when they are first needed.

    Args:
        jobs: workers.
        logs: folder of their logs.
        gpus: GPUs of this machine; the workers share them, and the sites' requests say whether one is used at all.
        say: told now and then what the workers do, while somebody waits for it.
        program: what a worker runs.
    """

    def __init__(
        self,
        jobs: int,
        logs: Path,
        *,
        gpus: int = 0,
        say: Callable[[str], None] = lambda _text: None,
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._workers = [_Worker(number, logs / f"worker-{number + 1}.log") for number in range(jobs)]
        self._gpus, self._say, self._program = gpus, say, program
        self._lock = threading.Lock()
        self._waiting: deque[Task] = deque()
        self._home: dict[str, int] = {}
        """Site → number of the worker that served it last."""
        self._closed = False
        self._told = time.monotonic()

    def submit(self, site: str, prepare: Prepare, request: Train | Evaluate | Measure | None = None) -> Task:
        """Have a request answered by a worker, as soon as one is free; None: only `prepare`."""
        task = Task(site, prepare, request)
        with self._lock:
            if self._closed:
                self._fail_task(task, WorkFailed("the simulation was stopped"))
            else:
                self._waiting.append(task)
                self._give_out()
        return task

    def await_task(self, task: Task) -> list[Reply]:
        """What came of a task.

        Raises:
            KonsilError: its worker ended, or could not be started.
        """
        while not task.over.wait(0.2):
            self._tell_progress()
        if task.error is not None:
            raise task.error
        return task.replies

    def drop_task(self, task: Task) -> None:
        """Nobody wants its answer any more. What a worker has begun is waited for, so that what it leaves on the disk
        does not depend on how fast it was."""
        with self._lock:
            if task in self._waiting:
                self._waiting.remove(task)
                task.over.set()
        while not task.over.wait(0.2):
            self._tell_progress()

    def close(self) -> None:
        """End all workers at once; what is waited for fails. Idempotent, any thread."""
        with self._lock:
            self._closed = True
            for task in self._waiting:
                self._fail_task(task, WorkFailed("the simulation was stopped"))
            self._waiting.clear()
            running = [one.process for one in self._workers if one.process is not None]
        for process in running:
            process.kill()
        for process in running:
            process.wait(ENDED_WITHIN)

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        with self._lock:
            return [one.process.pid for one in self._workers if one.process is not None]

    # what follows is called with the lock held, but for what the workers say

    def _give_out(self) -> None:
        """Give waiting tasks to idle workers: to each the first one of a site that no other has served, so that a
        site's session is held once; where there is none, the first one."""
        for worker in self._workers:
            if worker.task is None and self._waiting:
                own = (one for one in self._waiting if self._home.get(one.site, worker.number) == worker.number)
                task = next(own, self._waiting[0])
                self._waiting.remove(task)
                self._home[task.site] = worker.number
                self._start_task(worker, task)

    def _start_task(self, worker: _Worker, task: Task) -> None:
        worker.task, worker.latest = task, None
        gpus = share_gpus(worker.number, self._gpus) if task.prepare.gpus else []
        prepare = task.prepare.model_copy(update={"gpus": gpus})
        request: Request = prepare
        if task.request is not None and worker.site == task.site:
            request = task.request
        else:
            worker.site = None
        try:
            if worker.process is None:
                worker.process = self._start_process(worker)
            worker.process.send_request(request)
        except KonsilError as error:  # an exit that follows is not of this task
            worker.task = worker.site = None
            what = f"a training worker takes no work ({error.what}): {last_words(worker.log)}"
            self._fail_task(task, WorkFailed(what, where=str(worker.log)))

    def _start_process(self, worker: _Worker) -> TrainerProcess:
        return TrainerProcess(
            lambda reply: self._hear_reply(worker, reply),
            lambda status: self._hear_exit(worker, status),
            log=worker.log,
            program=self._program,
        )

    @staticmethod
    def _fail_task(task: Task, error: KonsilError) -> None:
        task.error = error
        task.over.set()

    def _hear_reply(self, worker: _Worker, reply: Reply) -> None:
        with self._lock:
            task = worker.task
            if task is None or isinstance(reply, CheckpointEvent):
                return
            if isinstance(reply, Progress):
                worker.latest = reply
                return
            if isinstance(reply, Written):
                task.replies.append(reply)
                return
            if isinstance(reply, Prepared):
                worker.site = task.site
                if task.request is not None and worker.process is not None:
                    worker.process.send_request(task.request)
                    return
            task.replies.append(reply)
            worker.task = None
            if getattr(reply, "fatal", False) and worker.process is not None:
                worker.process.kill()  # the next one is given to a new process
                worker.process = worker.site = None
            task.over.set()
            self._give_out()

    def _hear_exit(self, worker: _Worker, status: int) -> None:
        with self._lock:
            task, worker.task, worker.site, worker.process = worker.task, None, None, None
            if task is None:
                return
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            words = "" if self._closed or status < 0 else f": {last_words(worker.log)}"
            error = WorkFailed(
                "the simulation was stopped" if self._closed else f"a training worker {how}{words}",
                where=str(worker.log),
                advice="" if self._closed else "Where memory is short, use fewer --jobs",
            )
            self._fail_task(task, error)
            if not self._closed:
                self._give_out()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if now - self._told < TELL_EVERY:
            return
        self._told = now
        with self._lock:
            at_work = [(one.task.site, one.latest) for one in self._workers if one.task is not None]
            waiting = len(self._waiting)
        words = [
            f"{site} {latest.phase} {latest.done} of {latest.total}" if latest and latest.total else f"{site} begins"
            for site, latest in at_work
        ]
        self._say("training: " + ", ".join([*words, *([f"{waiting} wait"] if waiting else [])]))
