"""Progress of trainers and transfers, relayed to whoever watches: at most a few times a second, and always the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import structlog

from messages.ground import logs
from messages.ground.clock import Clock
from messages.kinds import Progress
from messages.tensors.transfer import TransferKey
from site_agent.core import policy
from site_agent.core.permissions import Floors
from site_agent.training import protocol
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace

log = structlog.get_logger()

EVERY = 0.5

_CHECKPOINT = {
    "written": "checkpoint written",
    "resumed": "training resumed from its checkpoint",
    "unused": "checkpoint is of another model, data set, configuration or software: training from the beginning",
    "unreadable": "checkpoint is damaged: training from the beginning",
    "unwritten": "checkpoint cannot be written; training goes on. Free disk space under the state directory",
}


class Relay:
    """Shows what is being done.

    Args:
        moved: bytes received and sent so far.
        post: hands a closure to the main loop.
    """

    def __init__(
        self,
        voice: Outbox,
        floors: Floors,
        moved: Callable[[], tuple[int, int]],
        post: Callable[[Callable[[], None]], None],
        clock: Clock,
    ) -> None:
        self._voice, self._floors, self._moved, self._post = voice, floors, moved, post
        self._clock, self._pace = clock, Pace(clock)
        self._began: dict[str, tuple[TransferKey, float, int]] = {}
        """Phase → the transfer that was last seen to move in it, when it was first, and how far it was then."""
        self.latest: dict[str, Progress] = {}
        self.resumed: dict[str, protocol.CheckpointEvent] = {}

    def relay_trainer(self, name: str, reply: protocol.Progress, *, masked: bool) -> None:
        """From a trainer; main loop's thread.

        Args:
            masked: whether its loss may leave in no other way than masked.
        """
        down, up = self._moved()
        body = Progress(
            phase=reply.phase,
            done=reply.done,
            total=reply.total,
            epoch=reply.epoch or None,
            epochs=reply.epochs or None,
            loss=None if masked else policy.loss_for_sharing(self._floors, reply.loss),
            eta_seconds=reply.eta_seconds,
            bytes_down=down,
            bytes_up=up,
        )
        self._tell_progress(name, reply.round, body)

    def relay_checkpoint(self, name: str, event: protocol.CheckpointEvent) -> None:
        """What became of a checkpoint: for the site's own log and status; main loop's thread."""
        if event.what == "resumed":
            self.resumed[name] = event
        tell = log.warning if event.what in ("unreadable", "unwritten") else log.info
        with logs.bind_experiment(name, event.round):
            tell(_CHECKPOINT[event.what], step=event.step, steps=event.steps)

    def relay_transfer(self, phase: Literal["fetching", "sending"], key: TransferKey, done: int, total: int) -> None:
        """From the receiver's or the sender's thread: only now and then, or at the end."""
        now = self._clock.monotonic()
        began = self._began.get(phase)
        if began is None or began[0] != key or done < began[2]:
            began = self._began[phase] = (key, now, done)
        if not self._pace.is_due(phase, EVERY) and done != total:
            return
        eta = (total - done) * (now - began[1]) / (done - began[2]) if done > began[2] else None
        down, up = self._moved()
        body = Progress(phase=phase, done=done, total=total, eta_seconds=eta, bytes_down=down, bytes_up=up)
        self._post(lambda: self._tell_progress(key.experiment, key.round, body))

    def _tell_progress(self, name: str, round_number: int, body: Progress) -> None:
        self.latest[name] = body
        if self._pace.is_due(f"progress {name}", EVERY) or body.done == body.total:
            self._voice.send_live("progress", body, experiment=name, round_number=round_number)
