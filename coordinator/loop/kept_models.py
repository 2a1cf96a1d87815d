"""A researcher asks for a model that the coordinator still keeps: it is published on `models`, as a finished one is."""

from __future__ import annotations

from collections.abc import Mapping
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
from messages.ground.clock import Queue
from messages.reasons import Reason


class KeptModels:
    """Main loop's thread.

    Args:
        states: every experiment's; the main loop's own, read only.
        inputs: the main loop's queue: takes a closure for what comes after the sending.
    """

    def __init__(
        self, states: Mapping[str, ExperimentState], say: Announcer, sender: Models, blobs: Blobs, inputs: Queue[Any]
    ) -> None:
        self._states, self._say, self._models, self._blobs, self._inputs = states, say, sender, blobs, inputs

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
        self._models.send_shipment(make_shipment("model-chunk", state.id, model.transfer, done=done))

    def _find_obstacle(self, state: ExperimentState | None, sender: str, rounds: int) -> Reason | None:
        if state is None:
            return Reason.UNKNOWN_EXPERIMENT
        if state.researcher != sender:
            return Reason.NOT_THE_OWNER
        model = state.models.get(rounds + 1)
        kept = model is not None and self._blobs.has_blob(state.id, model.seal)
        return None if kept else Reason.WRONG_ROUND
