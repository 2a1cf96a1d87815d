"""Has the work of secure rounds done, each task on a thread of its own, and brings what came of it to the main loop."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from messages.ground import logs
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.reasons import Reason
from site_agent.core.inputs import AnyInput, PartBroken
from site_agent.core.jobs import Job
from site_agent.core.secure.changes import Work
from site_agent.secure.rounds import SecureWork

log = structlog.get_logger()

Task = tuple[str, int, int, str]
"""Experiment, round, opening, and what is made."""
AGAIN_AFTER = (1.0, 4.0, 15.0, 60.0)
"""Seconds: within what an exchange takes at least (`exchange_within`), where that is not set low."""


class SecureRunner:
    """Owned by the main loop.

    Args:
        post: hands a closure to the main loop.
        apply: handles an input there; what makes something of the data leave goes by another way than the rest.
    """

    def __init__(
        self,
        work: SecureWork,
        post: Callable[[Callable[[], None]], None],
        apply: Callable[[AnyInput], None],
        clock: Clock,
    ) -> None:
        self._work, self._post, self._apply, self._clock = work, post, apply, clock
        self._running: set[Task] = set()

    def begin(self, job: Job, work: Work) -> None:
        """Begin a task, unless it is being done."""
        task = (job.experiment, job.round, job.opening, work)
        if task not in self._running:
            self._running.add(task)
            self._clock.make_thread(lambda: self._do_task(task, job, work), f"secure-{work}").start()

    def _do_task(self, task: Task, job: Job, work: Work) -> None:
        with logs.bind_experiment(job.experiment, job.round):
            given = self._make_input(job, work)
        self._post(lambda: self._end_task(task, given))

    def _make_input(self, job: Job, work: Work) -> AnyInput:
        """A spool that fails for a moment costs nobody the round: what was begun is done again, to the same bytes."""
        for wait in (*AGAIN_AFTER, None):
            try:
                return self._work.do_work(job, work)
            except KonsilError as error:
                log.error("cannot be done", what=work, error=str(error), again_in=wait)
            except Exception:
                log.critical("cannot be done: a defect", what=work, exc_info=True)
                return PartBroken(job.experiment)
            if wait is not None:
                self._clock.sleep(wait)
        return PartBroken(job.experiment, Reason.DISK_FULL)

    def _end_task(self, task: Task, given: AnyInput) -> None:
        self._running.discard(task)
        self._apply(given)
