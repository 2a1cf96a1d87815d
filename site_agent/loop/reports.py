"""What training processes say: replies to inputs of the agenda, exits to deaths."""

from __future__ import annotations

import threading

import structlog

from messages.ground.metrics import PHASES
from site_agent.core.inputs import TrainerDied
from site_agent.loop.effect_runner import Errands
from site_agent.loop.relay import Relay
from site_agent.loop.steps import Steps
from site_agent.trainers.processes import Trainers
from site_agent.trainers.requests import Workshop
from site_agent.training import protocol

log = structlog.get_logger()


class Reports:
    """Owned by the main loop; words of a process that was given up are dropped."""

    def __init__(self, *, steps: Steps, errands: Errands, trainers: Trainers, workshop: Workshop, relay: Relay) -> None:
        self._steps, self._errands, self._trainers, self._workshop = steps, errands, trainers, workshop
        self._relay = relay

    def reply(self, name: str, token: int, reply: protocol.Reply) -> None:
        """One reply of an experiment's process."""
        job = self._steps.agenda.job(name)
        if job is None or not self._trainers.current(name, token):
            return
        self._trainers.heard(name, reply)
        if isinstance(reply, protocol.Progress):
            self._relay.trainer(name, reply)
        elif isinstance(reply, protocol.CheckpointEvent):
            self._steps.tally.checkpoints[reply.what] += 1
            self._relay.checkpoint(name, reply)
        elif isinstance(reply, protocol.Written):
            ahead = self._workshop.written(job, reply) if self._steps.agenda.running == name else None
            if ahead is not None:
                self._errands.send_ahead(ahead)
        elif isinstance(reply, protocol.Prepared):
            prepared = self._workshop.prepared(job, reply)
            if prepared.lack is not None:
                self._trainers.kill(name)  # what it has read does not suffice: the next round reads anew
            self._errands.apply(prepared)
            self._trainers.proceed(name)
        elif isinstance(reply, protocol.Trained):
            PHASES.add("train", reply.seconds)
            # Sealing may read the whole file: on a thread of its own.
            threading.Thread(
                target=lambda: self._errands.post(self._workshop.trained(job, reply)),
                name="seal",
                daemon=True,
            ).start()
        elif isinstance(reply, protocol.Evaluated):
            self._errands.apply(self._workshop.scored(job, reply))
        else:
            self._errands.apply(self._workshop.failed(job, reply))

    def exit(self, name: str, token: int, status: int) -> None:
        """An experiment's process ended."""
        if not self._trainers.current(name, token):
            return
        end = self._trainers.ended(name, status)
        log.warning(
            "trainer ended",
            experiment=name, status=status, busy=end.busy, stuck=end.stuck, out_of_memory=end.out_of_memory,
        )  # fmt: skip
        if end.busy:
            self._errands.apply(TrainerDied(name, end.stuck, end.out_of_memory))
