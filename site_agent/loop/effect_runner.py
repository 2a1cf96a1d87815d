"""Does what the agenda decided: each effect handed to receiver, sender or trainer, after its transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from messages.ground import logs
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey
from site_agent.core.effects import (
    CloseTrainer,
    Effect,
    Fetch,
    Free,
    Halt,
    RunEvaluate,
    RunMeasure,
    RunPrepare,
    RunSecure,
    RunTrain,
    Say,
    SendChunks,
    list_fetches,
)
from site_agent.core.inputs import (
    AnyInput,
    CasesMeasured,
    ChunksSent,
    PartBroken,
    Scored,
    SecureAnswered,
    TrainerFailed,
)
from site_agent.core.jobs import OVER, Job, experiment_of
from site_agent.data.guard import DataGuard, Look, judge_data
from site_agent.loop.secure_runner import SecureRunner
from site_agent.loop.steps import Steps
from site_agent.secure.rounds import SecureWork
from site_agent.trainers.base import Trainers
from site_agent.trainers.requests import Workshop
from site_agent.wire.outbox import Outbox
from site_agent.wire.receiver import ChunkReceiver
from site_agent.wire.sender import Ahead, ChunkSender, SendTask

log = structlog.get_logger()

EVER = 10**9
AHEAD = "chunks ahead"


@dataclass
class _AheadHeld:
    """Chunks of an update that wait for a look at the list of the withdrawn; `may_leave`: it was looked at."""

    key: TransferKey
    waiting: list[Ahead]
    may_leave: bool = False


class EffectRunner:
    """Owned by the main loop.

    Args:
        post: hands a closure to the main loop.
        show: called when something was done, to show the agent's state.
    """

    def __init__(
        self,
        *,
        steps: Steps,
        voice: Outbox,
        trainers: Trainers,
        workshop: Workshop,
        receiver: ChunkReceiver,
        sender: ChunkSender,
        guard: DataGuard,
        secure: SecureWork,
        clock: Clock,
        post: Callable[[Callable[[], None]], None],
        show: Callable[[], None],
    ) -> None:
        self._steps, self._voice, self._trainers, self._workshop = steps, voice, trainers, workshop
        self._receiver, self._sender, self._guard = receiver, sender, guard
        self._post, self._show = post, show
        self._secure = SecureRunner(secure, post, self._apply_secure, clock)
        self._watched: dict[str, int] = {}
        self.settled: Callable[[], bool] = lambda: True
        """Whether history is read up; until then no data are prepared, perhaps for what ended long ago."""
        self._held: list[RunPrepare] = []
        self._ahead: dict[str, _AheadHeld] = {}

    def begin_held(self) -> None:
        """Prepare what is still wanted, once history is read up."""
        if self._held and self.settled():
            held, self._held = self._held, []
            for effect in held:
                with logs.bind_experiment(effect.experiment):
                    self._look_first(effect, self._steps.agenda.jobs[effect.experiment])

    def apply_input(self, given: AnyInput) -> None:
        """Decide, store, then do. What raises is a defect, and costs its experiment the task: never only a log line.

        Raises:
            KonsilError: it cannot be stored.
        """
        experiment = getattr(given, "experiment", None)
        with logs.bind_experiment(experiment):
            try:
                todo = self._steps.atomically(lambda: self._steps.take_step(given))
            except KonsilError:
                raise
            except Exception:
                if experiment is None or isinstance(given, PartBroken):
                    raise
                log.critical(
                    "an input cannot be handled: its task is given up", input=type(given).__name__, exc_info=True
                )
                todo = self._steps.atomically(lambda: self._steps.take_step(PartBroken(experiment)))
            self.perform_effects(todo)

    def post_input(self, given: AnyInput) -> None:
        """Apply a given in its turn. Any thread."""
        self._post(lambda: self.apply_input(given))

    def send_ahead(self, job: Job, ahead: Ahead) -> None:
        """Send chunks of an update that is still written. Nothing is stored of it: after a restart they go again."""
        if not self._guard.has_list(experiment_of(job).data.dataset):
            self._sender.send_update(ahead)
            return
        held = self._ahead.get(job.experiment)
        if ahead.first == 0 or held is None or held.key != ahead.key:
            held = self._ahead[job.experiment] = _AheadHeld(ahead.key, [ahead])
            self._do_unless_changed(job, AHEAD, lambda: self._send_held(held))
        elif held.may_leave:
            self._sender.send_update(ahead)
        else:
            held.waiting.append(ahead)

    def _send_held(self, held: _AheadHeld) -> None:
        held.may_leave = True
        for ahead in held.waiting:
            self._sender.send_update(ahead)
        held.waiting.clear()

    def _apply_secure(self, given: AnyInput) -> None:
        """Masked figures are of the data; all else that a secure round answers is of keys alone."""
        if isinstance(given, SecureAnswered) and given.kind == "secure-figures":
            self.apply_result(given)
        else:
            self.apply_input(given)

    def post_result(self, given: ChunksSent | Scored | CasesMeasured) -> None:
        """Apply a result in its turn. Any thread."""
        self._post(lambda: self.apply_result(given))

    def apply_result(self, given: ChunksSent | Scored | CasesMeasured | SecureAnswered) -> None:
        """Apply an input that makes what came of the data leave: an update's seal, scores."""
        job = self._steps.agenda.job_of(given.experiment)
        if job is not None:
            self._do_unless_changed(job, "result", lambda: self.apply_input(given))

    def _do_unless_changed(self, job: Job, what: str, then: Callable[[], None]) -> None:
        """Do what lets something of the data leave, unless a patient may have withdrawn since it was trained on.

        The list of the withdrawn is read again. Whatever else changed in the data counts as before a task: nobody can
        tell then who is in them. A data set without a list is not looked at.

        Args:
            what: leaves.
        """
        name = experiment_of(job).data.dataset
        if self._guard.has_list(name):
            self._guard.look_at_data(job.experiment, name, lambda seen: self._go_on(job, what, seen, then), what=what)
        else:
            then()

    def _go_on(self, job: Job, what: str, seen: Look | Reason, then: Callable[[], None]) -> None:
        now = self._steps.agenda.job_of(job.experiment)
        if now is None or (now.phase, now.round, now.attempt) != (job.phase, job.round, job.attempt):
            return
        reason = judge_data(now.data, seen)
        if reason is None:
            then()
        elif what != AHEAD:  # where chunks go ahead, the whole is still to come, and is looked at then
            log.error("nothing leaves: the data are not those that were trained on any more", reason=reason)
            self.apply_input(PartBroken(job.experiment, reason))

    def perform_effects(self, effects: list[Effect]) -> None:
        """Do what is to be done, then say what is new: a model that is announced may come before it is expected."""
        for effect in effects:
            with logs.bind_experiment(getattr(effect, "experiment", None)):
                try:
                    self._do_effect(effect)
                except Exception as error:  # noqa: BLE001 (it ends as a code, and in the log)
                    self._tell_undone(effect, error)
        self._watch_rounds()
        self._voice.publish_waiting()
        if effects:
            self._show()

    def _tell_undone(self, effect: Effect, error: Exception) -> None:
        """An effect raised. Its task is given up, where it is one that something waits for."""
        what = type(effect).__name__
        if isinstance(error, KonsilError):
            log.error("cannot be done", what=what, error=str(error))
        else:
            log.critical("cannot be done", what=what, exc_info=error)
        if isinstance(effect, Fetch):
            self.post_input(PartBroken(effect.key.experiment))
        elif isinstance(effect, RunPrepare | RunMeasure | RunTrain | RunEvaluate | SendChunks):
            self.post_input(PartBroken(effect.experiment))

    def expect_models(self) -> None:
        """Name to the receiver what is being fetched, before the queues are read: chunks may lie there already, and one
        that nobody expects is dropped, to be asked for again much later."""
        for job in self._steps.agenda.jobs.values():
            for effect in list_fetches(job, self._steps.agenda.site):
                self._receiver.expect_transfer(effect.key, effect.seal, signed=effect.signed)
        self._watch_rounds()

    def _watch_rounds(self) -> None:
        """Tell the receiver of which rounds chunks may come. After the last round, the one chosen on validation may;
        which round is the last is not known beforehand where training may end early."""
        for name, job in self._steps.agenda.jobs.items():
            if job.phase in OVER:
                self._watched.pop(name, None)
            elif self._watched.get(name) != job.round:
                self._watched[name] = job.round
                rounds = experiment_of(job).rounds
                again = job.round == rounds.count or rounds.patience is not None
                self._receiver.watch_experiment(name, job.round, again=again)

    def _look_first(self, effect: RunPrepare | RunMeasure | RunTrain | RunEvaluate, job: Job) -> None:
        """Look at the data, then give the task to the trainer."""
        name = experiment_of(job).data.dataset
        self._guard.look_at_data(job.experiment, name, lambda seen: self._begin_task(effect, job, seen))

    def _begin_task(
        self, effect: RunPrepare | RunMeasure | RunTrain | RunEvaluate, job: Job, seen: Look | Reason
    ) -> None:
        """Give a task to the trainer, once its data were looked at; the task may be void by then."""
        agenda = self._steps.agenda
        now = agenda.job_of(job.experiment)
        if now is None or agenda.running != now.experiment:
            return
        if (now.phase, now.round, now.attempt) != (job.phase, job.round, job.attempt):
            return
        obstacle: AnyInput | None = None
        reason = judge_data(now.data, seen)
        if isinstance(seen, Reason) or reason is not None:
            obstacle = TrainerFailed(now.experiment, reason or Reason.DATASET_GONE)
        else:
            self._workshop.note_data(now.experiment, seen.digest)
            try:
                obstacle = self._ask_trainer(effect, now)
            except KonsilError as error:
                log.error("cannot be done", what=type(effect).__name__, error=str(error))
                obstacle = TrainerFailed(now.experiment, Reason.TRAINER_DIED)
            except Exception:
                log.critical("cannot be done", what=type(effect).__name__, exc_info=True)
                obstacle = TrainerFailed(now.experiment, Reason.TRAINING_ERROR)
        if obstacle is not None:
            self.apply_input(obstacle)

    def _ask_trainer(self, effect: RunPrepare | RunMeasure | RunTrain | RunEvaluate, job: Job) -> AnyInput | None:
        if isinstance(effect, RunTrain):
            return self._workshop.train_round(job)
        if isinstance(effect, RunEvaluate):
            self._workshop.evaluate_model(job, effect.label)
        elif isinstance(effect, RunMeasure):
            self._workshop.measure_cases(job)
        else:
            self._workshop.prepare_data(job)
        return None

    def _do_effect(self, effect: Effect) -> None:
        job = self._steps.agenda.jobs[effect.experiment] if not isinstance(effect, Say | Fetch) else None
        if isinstance(effect, Fetch):
            self._receiver.expect_transfer(effect.key, effect.seal, signed=effect.signed)
        elif isinstance(effect, Free):
            self._receiver.drop_transfers(effect.experiment, effect.round)
            self._sender.drop_updates(effect.experiment, EVER if effect.round is None else effect.round)
            self._workshop.free_checkpoints(effect.experiment, effect.round)
            self._ahead.pop(effect.experiment, None)
        elif isinstance(effect, Halt):
            self._trainers.halt(effect.experiment)
        elif isinstance(effect, CloseTrainer):
            self._trainers.kill(effect.experiment)
        elif isinstance(effect, RunSecure) and job is not None:
            self._secure.begin(job, effect.work)
        elif isinstance(effect, RunPrepare) and not self.settled():
            self._held.append(effect)
        elif isinstance(effect, RunPrepare | RunMeasure | RunTrain | RunEvaluate) and job is not None:
            self._look_first(effect, job)
        elif isinstance(effect, SendChunks) and job is not None and job.update is not None:
            key = TransferKey(job.experiment, job.round, self._steps.agenda.site, job.attempt)
            task = SendTask(key, job.update.transfer, self._workshop.update_file(job), effect.chunks)
            self._do_unless_changed(job, "update", lambda: self._sender.send_update(task))
