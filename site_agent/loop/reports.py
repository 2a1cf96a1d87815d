"""What training processes say: replies to inputs of the agenda, exits to deaths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from messages.ground.clock import Clock
from messages.ground.metrics import PHASES
from site_agent.core.inputs import AnyInput, PartBroken, Prepared, TrainerDied
from site_agent.core.jobs import Job, Phase, experiment_of, must_mask
from site_agent.loop.effect_runner import EffectRunner
from site_agent.loop.relay import Relay
from site_agent.loop.steps import Steps
from site_agent.privacy.price import price_training
from site_agent.trainers.base import Trainers
from site_agent.trainers.requests import Workshop
from site_agent.training import protocol

log = structlog.get_logger()


class Reports:
    """Owned by the main loop; words of a process that was given up are dropped.

    Args:
        post: hands a closure to the main loop.
    """

    def __init__(
        self,
        *,
        steps: Steps,
        errands: EffectRunner,
        trainers: Trainers,
        workshop: Workshop,
        relay: Relay,
        post: Callable[[Callable[[], None]], None],
        clock: Clock,
    ) -> None:
        self._steps, self._errands, self._trainers, self._workshop = steps, errands, trainers, workshop
        self._relay, self._post, self._clock = relay, post, clock

    def take_reply(self, name: str, token: int, reply: protocol.Reply) -> None:
        """One reply of an experiment's process. One that cannot be handled costs the experiment its task."""
        job = self._steps.agenda.job_of(name)
        if job is None or not self._trainers.current(name, token):
            return
        self._trainers.heard(name, reply)
        try:
            self._handle_reply(job, reply)
        except Exception:
            log.critical(
                "a trainer's reply cannot be handled", experiment=name, reply=type(reply).__name__, exc_info=True
            )
            if not isinstance(reply, protocol.Progress | protocol.CheckpointEvent):  # nothing waits for those
                self._errands.apply_input(PartBroken(name))

    def _handle_reply(self, job: Job, reply: protocol.Reply) -> None:
        name = job.experiment
        if isinstance(reply, protocol.Progress):
            if job.privacy is not None:
                reply = reply.model_copy(update={"loss": None})  # it is withheld
            self._relay.relay_trainer(name, reply, masked=must_mask(job))
        elif isinstance(reply, protocol.CheckpointEvent):
            self._steps.tally.checkpoints[reply.what] += 1
            self._relay.relay_checkpoint(name, reply)
        elif isinstance(reply, protocol.Written):
            ahead = self._workshop.take_written(job, reply) if self._steps.agenda.running == name else None
            if ahead is not None:
                self._errands.send_ahead(job, ahead)
        elif isinstance(reply, protocol.Prepared):
            prepared = self._workshop.take_prepared(job, reply)
            if prepared.lack is not None:
                self._trainers.kill(name)  # what it has read does not suffice: the next round reads anew
            if job.phase is Phase.PREPARING and experiment_of(job).privacy.dp is not None and prepared.lack is None:
                self._clock.make_thread(lambda: self._price_training(job, prepared), "price").start()
                return
            self._join_in(name, prepared)
        elif isinstance(reply, protocol.Trained):
            PHASES.add_stretch("train", reply.seconds)
            # Sealing may read the whole file: on a thread of its own.
            self._clock.make_thread(lambda: self._errands.post_input(self._seal_update(job, reply)), "seal").start()
        elif isinstance(reply, protocol.Evaluated):
            self._errands.apply_result(self._workshop.take_scored(job, reply))
        elif isinstance(reply, protocol.Measured):
            self._clock.make_thread(lambda: self._share_measured(job, reply), "measured").start()
        else:
            self._errands.apply_input(self._workshop.take_failed(job, reply))

    def _join_in(self, name: str, prepared: Prepared) -> None:
        self._errands.apply_input(prepared)
        self._trainers.proceed(name)

    def _price_training(self, job: Job, prepared: Prepared) -> None:
        """What training will cost is asked before the site joins: that takes seconds, on a thread of its own."""
        try:
            priced = replace(prepared, price=price_training(experiment_of(job), prepared.patients))
        except Exception:
            log.critical("what training costs cannot be told", experiment=job.experiment, exc_info=True)
            self._errands.post_input(PartBroken(job.experiment))
        else:
            self._post(lambda: self._join_in(job.experiment, priced))

    def _share_measured(self, job: Job, reply: protocol.Measured) -> None:
        try:
            self._errands.post_result(self._workshop.take_measured(job, reply))
        except Exception:
            log.critical("what was measured cannot be added up", experiment=job.experiment, exc_info=True)
            self._errands.post_input(PartBroken(job.experiment))

    def _seal_update(self, job: Job, reply: protocol.Trained) -> AnyInput:
        try:
            return self._workshop.take_trained(job, reply)
        except Exception:
            log.critical("an update cannot be sealed", experiment=job.experiment, exc_info=True)
            return PartBroken(job.experiment)

    def take_exit(self, name: str, token: int, status: int) -> None:
        """An experiment's process ended."""
        if not self._trainers.current(name, token):
            return
        end = self._trainers.ended(name, status)
        log.warning(
            "trainer ended",
            experiment=name, status=status, busy=end.busy, stuck=end.stuck, out_of_memory=end.out_of_memory,
        )  # fmt: skip
        if end.busy:
            self._errands.apply_input(TrainerDied(name, end.stuck, end.out_of_memory))
