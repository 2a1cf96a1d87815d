"""Trainers without processes: the null trainer on a thread of the agent's clock. A round takes what a script says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from messages.experiment import Experiment
from messages.ground.clock import Clock, Queue
from messages.ground.errors import KonsilError
from messages.secure.shared import is_shared
from site_agent.config import SiteConfig
from site_agent.trainers.asking import Asking
from site_agent.trainers.base import Ended, OnExit, OnReply
from site_agent.training.null import NullTrainer
from site_agent.training.protocol import (
    Prepare,
    Progress,
    Reply,
    Request,
    Train,
    Trained,
)

Seconds = Callable[[str, int], float]
"""(site, round) → how long its training takes."""
Pause = Callable[[str, Request], float]
"""(site, request) → how long it takes beside that."""
STEPS = 4


class Gone(Exception):
    """The trainer was killed: it does nothing more."""


class Script(NullTrainer):
    """Answers by a call, and takes its time by a clock. `lives` says whether nobody has killed it."""

    def __init__(
        self,
        say: Callable[[Reply], None],
        seconds: Seconds,
        clock: Clock,
        cases: int,
        lives: Callable[[], bool],
        *,
        memory: bool = False,
    ) -> None:
        super().__init__(None, cases, 0.0, "", memory=memory)  # type: ignore[arg-type]  # there is no socket: `_send_reply` is all that used it
        self._answer, self._takes, self._clock, self._lives = say, seconds, clock, lives

    def wait(self, seconds: float) -> None:
        if seconds:
            self._clock.sleep(seconds)
        if not self._lives():
            raise Gone

    def _send_reply(self, reply: Reply) -> None:
        self._answer(reply)

    def _train_round(self, request: Train) -> None:
        assert self._prepare is not None
        seconds = self._takes(self._prepare.site, request.round)
        for done in range(1, STEPS + 1):
            self.wait(seconds / STEPS)
            self._send_reply(
                Progress(
                    round=request.round, phase="training", done=done, total=STEPS, epoch=1, epochs=1, loss=1 / done
                )
            )
        self._write_update(request)
        self._send_reply(
            Trained(
                round=request.round,
                attempt=request.attempt,
                cases=self._split_shares()["train"],
                steps=1 if is_shared(Experiment.model_validate(self._prepare.experiment)) else STEPS,
                epochs=1.0,
                loss=1 / (request.round + 1),
                seconds=seconds,
                evaluation=self._make_rows("validation") if request.evaluate else None,
            )
        )


@dataclass
class _Warm:
    token: int
    inbox: Queue[Request | None]
    asking: Asking = field(default_factory=Asking)
    dead: bool = False
    """Its process has ended by itself, and the agent has not heard of that yet."""


class ScriptedTrainers:
    """`site_agent.trainers.base.Trainers`, in this process."""

    def __init__(
        self,
        config: SiteConfig,
        on_reply: OnReply,
        on_exit: OnExit,
        clock: Clock,
        seconds: Seconds,
        cases: int,
        pause: Pause = lambda _site, _request: 0.0,
    ) -> None:
        self._site, self._on_reply, self._clock, self._seconds = config.site.name, on_reply, clock, seconds
        self._on_exit = on_exit
        self._cases, self._pause = cases, pause
        self._warm: dict[str, _Warm] = {}
        self._tokens = itertools.count(1)

    def ask(self, experiment: str, prepare: Prepare, request: Request | None) -> None:
        warm = self._warm.get(experiment) or self._start(experiment)
        if (sent := warm.asking.take_request(prepare, request)) is not None:
            warm.inbox.put(sent)

    def proceed(self, experiment: str) -> None:
        warm = self._warm.get(experiment)
        if warm is not None and (request := warm.asking.hand_over_next()) is not None:
            warm.inbox.put(request)

    def _start(self, experiment: str) -> _Warm:
        token = next(self._tokens)
        warm = self._warm[experiment] = _Warm(token, self._clock.make_queue())
        say: Callable[[Reply], None] = lambda reply: self._on_reply(experiment, token, reply)  # noqa: E731
        script = self._make_script(say, lambda: self._warm.get(experiment) is warm and not warm.dead)

        def work() -> None:
            while (request := warm.inbox.get()) is not None:
                try:
                    script.wait(self._pause(self._site, request))
                    script.answer_request(request)
                except Gone:
                    return
                except KonsilError:
                    if self._warm.get(experiment) is warm:  # a process that is killed misses nothing
                        raise

        self._clock.make_thread(work, f"trainer-{self._site}-{token}").start()
        return warm

    def _make_script(self, say: Callable[[Reply], None], lives: Callable[[], bool]) -> Script:
        return Script(say, self._seconds, self._clock, self._cases, lives)

    def die(self) -> None:
        """The processes are killed from outside. Any thread."""
        for experiment, warm in [*self._warm.items()]:
            if not warm.dead:
                warm.dead = True
                self._on_exit(experiment, warm.token, -9)

    def current(self, experiment: str, token: int) -> bool:
        warm = self._warm.get(experiment)
        return warm is not None and warm.token == token

    def heard(self, experiment: str, reply: Reply) -> None:
        if self._warm[experiment].asking.hear_reply(reply):
            self.kill(experiment)

    def ended(self, experiment: str, status: int) -> Ended:
        warm = self._warm.pop(experiment)
        warm.inbox.put(None)
        return Ended(warm.asking.busy, stuck=False, out_of_memory=False)

    def end_stuck(self) -> None: ...

    def bound_logs(self) -> None: ...

    def forget(self, experiment: str) -> None: ...

    def kill(self, experiment: str) -> None:
        warm = self._warm.pop(experiment, None)
        if warm is not None:
            warm.inbox.put(None)

    def halt(self, experiment: str) -> None:
        warm = self._warm.get(experiment)
        if warm is not None and warm.asking.halt():
            self.kill(experiment)

    def leave(self) -> None: ...

    def close(self) -> None:
        for experiment in [*self._warm]:
            self.kill(experiment)

    def pids(self) -> dict[str, int]:
        return {}
