"""A simulated site's trainers: its requests go to the crew that all sites share, and take virtual time.

A request is handed to the crew when it is made, and its answer is told when its virtual time is up. Where the worker is
not done by then, virtual time stands until it is. So two sites' trainings run at the same real time, and what happens
when does not depend on how fast this machine is, nor on how many workers it has.

A process that is killed in production leaves nothing of the round behind. A worker goes on to the end; then what it
left is removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.simulate.crew import Crew, Task
from deploy.simulate.tempo import Tempo
from messages.experiment import Experiment
from messages.ground.clock import Clock, Event, Queue
from messages.ground.errors import KonsilError
from site_agent.config import SiteConfig
from site_agent.trainers.asking import Asking
from site_agent.trainers.base import Ended, OnExit, OnReply
from site_agent.training.files import growing_path, kept_file, kept_folder, strategy_folder
from site_agent.training.protocol import (
    Evaluate,
    Measure,
    Prepare,
    Prepared,
    Progress,
    Reply,
    Request,
    Train,
    Trained,
)

TELL_EVERY = 60.0
"""Virtual seconds between two words of progress."""
MOST_WORDS = 20
"""Of progress, of one request."""


@dataclass
class _Bench:
    """What an experiment's trainer is, seen from the agent: see `site_agent.trainers.processes`."""

    token: int
    inbox: Queue[tuple[Prepare, Train | Evaluate | Measure | None] | None]
    void: Event
    asking: Asking = field(default_factory=Asking)
    prepare: Prepare | None = None
    """As it was asked last: a worker is nobody's own, and is told with each request."""
    prepared: Prepared | None = None
    experiment: Experiment | None = None
    task: Task | None = None
    leaves: tuple[Path, ...] = ()
    """Files that this round's training will have made."""


class SharedTrainers:
    """`site_agent.trainers.base.Trainers` on a crew.

    Args:
        on_broken: told what makes the simulation impossible (a worker died); virtual time goes on meanwhile.
    """

    def __init__(
        self,
        config: SiteConfig,
        on_reply: OnReply,
        on_exit: OnExit,
        clock: Clock,
        *,
        crew: Crew,
        tempo: Tempo,
        on_broken: Callable[[KonsilError], None],
    ) -> None:
        del on_exit  # what ends a worker ends the simulation
        self._site, self._on_reply, self._clock = config.site.name, on_reply, clock
        self._crew, self._tempo, self._on_broken = crew, tempo, on_broken
        self._benches: dict[str, _Bench] = {}
        self._tokens = itertools.count(1)

    def ask(self, experiment: str, prepare: Prepare, request: Request | None) -> None:
        """See `Trainers`."""
        bench = self._benches.get(experiment) or self._start_bench(experiment)
        bench.prepare = prepare
        self._submit(bench, bench.asking.take_request(prepare, request))

    def proceed(self, experiment: str) -> None:
        """See `Trainers`."""
        bench = self._benches.get(experiment)
        if bench is not None:
            self._submit(bench, bench.asking.hand_over_next())

    @staticmethod
    def _submit(bench: _Bench, request: Request | None) -> None:
        if request is None or bench.prepare is None:
            return
        assert isinstance(request, Prepare | Train | Evaluate | Measure)  # noqa: S101 (all that an agent asks for)
        bench.inbox.put((bench.prepare, None if isinstance(request, Prepare) else request))

    def current(self, experiment: str, token: int) -> bool:
        """See `Trainers`."""
        bench = self._benches.get(experiment)
        return bench is not None and bench.token == token

    def heard(self, experiment: str, reply: Reply) -> None:
        """See `Trainers`."""
        if self._benches[experiment].asking.hear_reply(reply):
            self.kill(experiment)

    def ended(self, experiment: str, status: int) -> Ended:
        """See `Trainers`; no exit is ever told."""
        raise AssertionError(f"a bench has no exit status: {experiment}, {status}")

    def end_stuck(self) -> None:
        """Nothing is silent for longer than its work takes."""

    def bound_logs(self) -> None:
        """The workers' words are the crew's."""

    def forget(self, experiment: str) -> None:
        """As above."""

    def kill(self, experiment: str) -> None:
        """See `Trainers`. Returns once no worker is at it any more."""
        bench = self._benches.pop(experiment, None)
        if bench is None:
            return
        bench.void.set()
        bench.inbox.put(None)
        if bench.task is not None:
            self._crew.drop_task(bench.task)
            for file in bench.leaves:
                file.unlink(missing_ok=True)

    def halt(self, experiment: str) -> None:
        """See `Trainers`."""
        bench = self._benches.get(experiment)
        if bench is not None and bench.asking.halt():
            self.kill(experiment)

    def leave(self) -> None:
        """There is nothing to save: a round that is cut off begins anew, to the same bits."""

    def close(self) -> None:
        """See `Trainers`."""
        for experiment in [*self._benches]:
            self.kill(experiment)

    def pids(self) -> dict[str, int]:
        """The workers are nobody's own."""
        return {}

    def _start_bench(self, experiment: str) -> _Bench:
        token = next(self._tokens)
        bench = self._benches[experiment] = _Bench(token, self._clock.make_queue(), self._clock.make_event())

        def say(reply: Reply) -> None:
            if not bench.void.is_set():
                self._on_reply(experiment, token, reply)

        def work() -> None:
            while (asked := bench.inbox.get()) is not None:
                try:
                    self._answer(bench, *asked, say)
                except KonsilError as error:
                    if not bench.void.is_set():
                        self._on_broken(error)
                    return

        self._clock.make_thread(work, f"bench-{self._site}-{token}").start()
        return bench

    def _answer(
        self, bench: _Bench, prepare: Prepare, request: Train | Evaluate | Measure | None, say: Callable[[Reply], None]
    ) -> None:
        """Have it done, and say what came of it when its time is up."""
        seconds = self._seconds_of(bench, prepare, request)
        if isinstance(request, Train):
            # Virtual time has no use for what costs real time alone.
            request = request.model_copy(update={"checkpoint_seconds": None})
            folders = [find(prepare.cache, prepare.experiment["id"]) for find in (kept_folder, strategy_folder)]
            kept = [kept_file(folder, request.round) for folder in folders]
            made = (*kept, Path(request.output), growing_path(request.output))
            bench.leaves = tuple(file for file in made if not file.exists())
        bench.task = self._crew.submit(self._site, prepare, request)
        if self._pass_time(bench, request, seconds, say):
            return
        replies = self._crew.await_task(bench.task)
        bench.task, bench.leaves = None, ()
        for reply in replies:
            if isinstance(reply, Prepared):
                bench.prepared = reply
            say(reply.model_copy(update={"seconds": seconds}) if isinstance(reply, Trained) else reply)

    def _seconds_of(self, bench: _Bench, prepare: Prepare, request: Train | Evaluate | Measure | None) -> float:
        if request is None or bench.prepared is None or isinstance(request, Measure):
            return self._tempo.take_preparing(self._site)
        if isinstance(request, Evaluate):
            return self._tempo.take_scoring(self._site, request, bench.prepared)
        if bench.experiment is None:
            bench.experiment = Experiment.model_validate(prepare.experiment)
        return self._tempo.take_training(self._site, bench.experiment, request, bench.prepared)

    def _pass_time(
        self, bench: _Bench, request: Train | Evaluate | Measure | None, seconds: float, say: Callable[[Reply], None]
    ) -> bool:
        """Let the work's time pass; whether it became void meanwhile."""
        parts = min(MOST_WORDS, max(1, int(seconds / TELL_EVERY)))
        for done in range(1, parts + 1):
            if bench.void.wait(seconds / parts):
                return True
            if done < parts and request is not None:
                phase = "training" if isinstance(request, Train) else "testing"
                phase = "preparing" if isinstance(request, Measure) else phase
                say(Progress(round=request.round, phase=phase, done=done, total=parts))  # type: ignore[arg-type]
        return False
