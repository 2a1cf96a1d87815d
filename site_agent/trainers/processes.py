"""The warm training processes: one an experiment, started when first needed, watched, ended when the work is void, or
when another experiment needs the place."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from messages.ground.clock import Clock
from messages.ground.errors import WorkFailed
from site_agent.config import SiteConfig
from site_agent.trainers import log_file, oom
from site_agent.trainers.asking import Asking
from site_agent.trainers.base import Ended, OnExit, OnReply
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import Prepare, Reply, Request

log = structlog.get_logger()

SAVED_WITHIN = 10.0
"""Seconds for a checkpoint when the agent stops: a third of the unit's TimeoutStopSec=."""

EXTERNAL = (sys.executable, "-m", "site_agent.external")
"""Runs the programs that the operator registered under [trainers]."""

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit status after SIGKILL: as `subprocess` says it, and as a shell does."""


@dataclass
class _Warm:
    token: int
    process: TrainerProcess
    heard: float
    asking: Asking = field(default_factory=Asking)
    stuck: bool = False
    leaving: bool = False
    """Whether it was asked to save what it has and end."""
    oom_kills: int | None = None
    """The out-of-memory killer's count when the last request was made."""


class TrainerProcesses:
    """`Trainers` with a process each. Owned by the agent's main loop; replies and exits come on other threads, marked
    with the process's token, and what a process says after it was given up is dropped here.

    No more than `most` run at a time. Where another one is needed, one that waits ends: of an experiment that has only
    joined rather than of one that trains, then the one that was heard of the longest ago. When its round comes, another
    one reads the data again.

    Args:
        on_reply: (experiment, token, reply), on another thread.
        on_exit: (experiment, token, exit status), on another thread.
        program: the operator's own trainer; None: Konsil's.
        stuck_after: seconds without any word from a busy trainer.
        most: processes at a time.
    """

    def __init__(
        self,
        *,
        on_reply: OnReply,
        on_exit: OnExit,
        clock: Clock,
        logs: Path,
        program: Sequence[str] | None,
        nice: int,
        stuck_after: float,
        most: int,
    ) -> None:
        self._on_reply, self._on_exit, self._clock, self._most = on_reply, on_exit, clock, most
        self._logs, self._program, self._nice, self._stuck_after = logs, program, nice, stuck_after
        self._warm: dict[str, _Warm] = {}
        self._tokens = itertools.count(1)
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ask(self, experiment: str, prepare: Prepare, request: Request | None) -> None:
        """Send a request to the experiment's process; a cold one is started and prepared first. Without a request,
        the data are read (again).

        Raises:
            WorkFailed: the process cannot be started.
        """
        warm = self._warm.get(experiment)
        if warm is None or not warm.process.alive:
            warm = self._start(experiment, foreign=bool(prepare.experiment.get("training", {}).get("trainer")))
        warm.heard = self._clock.monotonic()
        warm.oom_kills = oom.count_kills()
        sent = warm.asking.take_request(prepare, request)
        if sent is not None:
            warm.process.send_request(sent)

    def proceed(self, experiment: str) -> None:
        """The data are read and found enough: hand over what waited for that."""
        warm = self._warm.get(experiment)
        if warm is not None and (request := warm.asking.hand_over_next()) is not None:
            with contextlib.suppress(WorkFailed):  # it ended just now: its exit follows, and says that it was at work
                warm.process.send_request(request)

    def _make_room(self, experiment: str) -> None:
        """End what waits, until there is room for one more process.

        The caller has the site's slot. So whatever else is busy only reads its data, for a task that is void already.
        """
        others = [name for name in self._warm if name != experiment]
        others.sort(key=lambda name: (self._warm[name].asking.has_worked, self._warm[name].heard))
        for name in others[: max(0, len(others) + 1 - self._most)]:
            log.info("trainer ends, for another experiment's", experiment=name, pid=self._warm[name].process.pid)
            self.kill(name)

    def _start(self, experiment: str, *, foreign: bool) -> _Warm:
        self._make_room(experiment)
        token = next(self._tokens)
        process = TrainerProcess(
            lambda reply: self._on_reply(experiment, token, reply),
            lambda status: self._on_exit(experiment, token, status),
            log=log_file.log_of(self._logs, experiment),
            nice=self._nice,
            program=EXTERNAL if foreign else self._program,
        )
        log_file.bound_size(log_file.log_of(self._logs, experiment))
        log.info("trainer started", experiment=experiment, pid=process.pid)
        warm = self._warm[experiment] = _Warm(token, process, heard=self._clock.monotonic())
        return warm

    def current(self, experiment: str, token: int) -> bool:
        """Whether a word comes from the process that counts."""
        warm = self._warm.get(experiment)
        return warm is not None and warm.token == token

    def heard(self, experiment: str, reply: Reply) -> None:
        """Note a sign of life; an answer settles its request."""
        warm = self._warm[experiment]
        warm.heard = self._clock.monotonic()
        if warm.asking.hear_reply(reply):
            self.kill(experiment)

    def ended(self, experiment: str, status: int) -> Ended:
        """The process ended with this exit status. It is cold from now on."""
        warm = self._warm.pop(experiment)
        # SIGKILL comes from many hands; the kernel counts what it ends for want of memory, where that can be read.
        before, now = warm.oom_kills, oom.count_kills()
        counted = before is not None and now is not None and now > before
        return Ended(warm.asking.busy, warm.stuck, out_of_memory=status in _KILLED and not warm.stuck and counted)

    def end_stuck(self) -> None:
        """Kill what has been silent for too long; its exit follows."""
        now = self._clock.monotonic()
        for experiment, warm in self._warm.items():
            if warm.asking.busy and not warm.stuck and now - warm.heard > self._stuck_after:
                log.error("trainer is stuck, ending it", experiment=experiment, pid=warm.process.pid)
                warm.stuck = True
                warm.process.kill()

    def bound_logs(self) -> None:
        """Keep the processes' own words within bounds."""
        for experiment in self._warm:
            log_file.bound_size(log_file.log_of(self._logs, experiment))

    def forget(self, experiment: str) -> None:
        """Remove the words of an experiment's processes; none of them runs any more."""
        log_file.remove_log(log_file.log_of(self._logs, experiment))

    def kill(self, experiment: str) -> None:
        """End the process at once; nothing more is heard of it."""
        warm = self._warm.pop(experiment, None)
        if warm is not None:
            warm.process.kill()

    def halt(self, experiment: str) -> None:
        """Void what the process works on; it stays warm where that was nothing."""
        warm = self._warm.get(experiment)
        if warm is not None and warm.asking.halt():
            self.kill(experiment)

    def leave(self) -> None:
        """Ask what is at work to save what it has and end; `close` waits for it."""
        for warm in self._warm.values():
            if warm.asking.at_work and not warm.leaving:
                warm.leaving = True
                warm.process.terminate()

    def close(self, within: float = SAVED_WITHIN) -> None:
        """End all. What is at work gets so many seconds to save what it has."""
        self.leave()
        deadline = self._clock.monotonic() + within
        warm = [*self._warm.values()]
        self._warm.clear()
        for one in warm:
            if not one.leaving:
                one.process.kill()
        for one in warm:
            if one.leaving and one.process.wait(max(0.0, deadline - self._clock.monotonic())) is None:
                log.warning("trainer did not end in time, ending it", pid=one.process.pid)
                one.process.kill()
        for one in warm:
            one.process.wait(5.0)

    def pids(self) -> dict[str, int]:
        """Experiment → process id, for `status` and the metrics' thread."""
        return {experiment: warm.process.pid for experiment, warm in self._warm.copy().items()}


def start_processes(config: SiteConfig, on_reply: OnReply, on_exit: OnExit, clock: Clock) -> TrainerProcesses:
    """The trainers of production: a process each, started when it is first needed."""
    return TrainerProcesses(
        on_reply=on_reply,
        on_exit=on_exit,
        clock=clock,
        logs=config.site.state / "logs",
        program=config.training.command,
        nice=config.training.nice,
        stuck_after=config.training.stuck_after,
        most=config.training.warm,
    )
