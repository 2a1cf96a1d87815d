"""A researcher asks for a model that the coordinator still keeps: it is published on `models`, as a finished one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from coordinator.core import models
from coordinator.core.effects import Tell
from coordinator.core.state import ExperimentState
from coordinator.loop.effect_runner import make_shipment
from coordinator.wire.announcer import Announcer
from coordinator.wire.outgoing import Models
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.envelope import Event
from messages.ground.clock import Clock, Queue
from messages.reasons import Reason

MODELS_A_DAY = 3
"""How often one model is sent in a day because its researcher asks for it."""
DAY = 86400.0
PIECE_BYTES = 32 * 2**20
"""So much of it is sent at a time: chunks of rounds wait no longer than that."""


class KeptModels:
    """Main loop's thread.

    Args:
        states: every experiment's; the main loop's own, read only.
        inputs: the main loop's queue: takes a closure for what comes after the sending.
    """

    def __init__(
        self,
        states: Mapping[str, ExperimentState],
        say: Announcer,
        sender: Models,
        blobs: Blobs,
        inputs: Queue[Any],
        clock: Clock,
    ) -> None:
        self._states, self._say, self._models, self._blobs, self._inputs = states, say, sender, blobs, inputs
        self._clock = clock
        self._sent: dict[tuple[str, int], tuple[float, ...]] = {}
        """Experiment and rounds → when that model was sent in the last day."""

    def send_model(self, event: Event, rounds: int) -> None:
        """Publish the model that so many rounds made, then `model-ready`; or refuse with the reason."""
        state = self._states.get(event.experiment)
        if (reason := self._find_obstacle(state, event.sender, rounds)) is not None or state is None:
            why = reason or Reason.UNKNOWN_EXPERIMENT
            self._say.tell_refusal(Tell(event.sender, event.experiment, rounds, event.id, event.kind, why))
            return
        model = models.candidate_of(state, f"round-{rounds}", rounds)
        body = kinds.ExperimentComplete(
            model=model, model_round=rounds, final_digest=model.model_digest, rounds=state.completed
        )
        told = partial(self._say.send_live, "model-ready", body, experiment=state.id, round_number=rounds)
        done = partial(self._inputs.put, told)
        chunks, size = model.transfer.manifest.chunks, max(1, PIECE_BYTES // model.transfer.manifest.chunk_bytes)
        pieces = [tuple(range(first, min(chunks, first + size))) for first in range(0, chunks, size)] or [()]
        for number, piece in enumerate(pieces, start=1):
            last = done if number == len(pieces) else None
            one = make_shipment("model-chunk", state.id, model.transfer, piece, done=last)
            self._models.send_shipment(replace(one, owner=event.sender))

    def _is_spent(self, state: ExperimentState, rounds: int) -> bool:
        """Count one more request for a model; whether it was sent as often as it may be in a day."""
        place, now = (state.id, rounds), self._clock.monotonic()
        self._sent = {one: at for one, at in self._sent.items() if now - at[-1] < DAY}
        lately = tuple(at for at in self._sent.get(place, ()) if now - at < DAY)
        if len(lately) >= MODELS_A_DAY:
            return True
        self._sent[place] = (*lately, now)
        return False

    def _find_obstacle(self, state: ExperimentState | None, sender: str, rounds: int) -> Reason | None:
        if state is None:
            return Reason.UNKNOWN_EXPERIMENT
        if state.researcher != sender:
            return Reason.NOT_THE_OWNER
        model = state.models.get(rounds + 1)
        if model is None or not self._blobs.has_blob(state.id, model.seal):
            return Reason.WRONG_ROUND
        return Reason.NOT_ALLOWED if self._is_spent(state, rounds) else None
