"""Does what the agenda decided: each effect handed to receiver, sender or trainer, after its transaction."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from messages.errors import KonsilError
from messages.reasons import Reason
from messages.transfer import TransferKey
from site_agent.post import Post
from site_agent.receiver import Receiver
from site_agent.sender import Sender, Task
from site_agent.steps import Steps
from site_agent.trainers import Trainers
from site_agent.work import (
    OVER,
    CloseTrainer,
    Effect,
    Fetch,
    Free,
    Halt,
    Phase,
    RunEvaluate,
    RunPrepare,
    RunTrain,
    Say,
    SendChunks,
    Stimulus,
    TrainerFailed,
    experiment_of,
)
from site_agent.workshop import Workshop

log = structlog.get_logger()

EVER = 10**9


class Errands:
    """Owned by the main loop.

    Args:
        post: hands a closure to the main loop.
        show: called when something was done, to show the agent's state.
    """

    def __init__(
        self,
        *,
        steps: Steps,
        voice: Post,
        trainers: Trainers,
        workshop: Workshop,
        receiver: Receiver,
        sender: Sender,
        post: Callable[[Callable[[], None]], None],
        show: Callable[[], None],
    ) -> None:
        self._steps, self._voice, self._trainers, self._workshop = steps, voice, trainers, workshop
        self._receiver, self._sender, self._post, self._show = receiver, sender, post, show
        self._watched: dict[str, int] = {}

    def apply(self, stimulus: Stimulus) -> None:
        """Decide, store, then do."""
        self.perform(self._steps.atomically(lambda: self._steps.step(stimulus)))

    def post(self, stimulus: Stimulus) -> None:
        """Apply a stimulus in its turn. Any thread."""
        self._post(lambda: self.apply(stimulus))

    def perform(self, effects: list[Effect]) -> None:
        """Say what is new, and do what is to be done."""
        self._voice.publish()
        for effect in effects:
            try:
                self._do(effect)
            except KonsilError as error:
                log.error("cannot be done", what=type(effect).__name__, error=str(error))
                if isinstance(effect, RunPrepare | RunTrain | RunEvaluate):
                    self.post(TrainerFailed(effect.experiment, Reason.TRAINER_DIED))
        self._watch()
        if effects:
            self._show()

    def _watch(self) -> None:
        """Tell the receiver of which rounds chunks may come. After the last round, the one chosen on validation may."""
        for name, job in self._steps.agenda.jobs.items():
            if job.phase in OVER:
                self._watched.pop(name, None)
            elif self._watched.get(name) != job.round:
                self._watched[name] = job.round
                self._receiver.watch(name, job.round, again=job.round == experiment_of(job).rounds.count)

    def _do(self, effect: Effect) -> None:
        job = self._steps.agenda.jobs[effect.experiment] if not isinstance(effect, Say | Fetch) else None
        if isinstance(effect, Fetch):
            self._receiver.expect(effect.key, effect.seal)
        elif isinstance(effect, Free):
            self._receiver.drop(effect.experiment, effect.round)
            self._sender.drop(effect.experiment, EVER if effect.round is None else effect.round)
        elif isinstance(effect, Halt):
            self._trainers.halt(effect.experiment)
        elif isinstance(effect, CloseTrainer):
            self._trainers.kill(effect.experiment)
        elif isinstance(effect, RunPrepare) and job is not None:
            self._workshop.prepare(job)
        elif isinstance(effect, RunTrain) and job is not None and job.phase is Phase.TRAINING:
            obstacle = self._workshop.train(job)
            if obstacle is not None:
                self.post(obstacle)
        elif isinstance(effect, RunEvaluate) and job is not None and job.phase is Phase.EVALUATING:
            self._workshop.evaluate(job, effect.label)
        elif isinstance(effect, SendChunks) and job is not None and job.update is not None:
            key = TransferKey(job.experiment, job.round, self._steps.agenda.site, job.attempt)
            self._sender.send(Task(key, job.update.transfer, self._workshop.update(job), effect.chunks))
