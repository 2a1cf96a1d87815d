"""What a site that returns is told: where its experiments are, and the chunks that it lacks of a model."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from coordinator.core import announce, models
from coordinator.core import effects as e
from coordinator.core.state import ExperimentState
from coordinator.loop.effect_runner import make_shipment
from coordinator.wire.announcer import Announcer
from coordinator.wire.outgoing import Models
from messages import kinds
from messages.ground.clock import Clock

log = structlog.get_logger("coordinator")
STANDING_FOR = 30 * 86400.0
"""Seconds for which an ended experiment is told to sites that return (protocol rule 1)."""


class Returning:
    """Answers sites out of the states of the experiments. Main loop's thread.

    Args:
        states: every experiment's; the main loop's own, read only.
    """

    def __init__(self, states: Mapping[str, ExperimentState], say: Announcer, models: Models, clock: Clock) -> None:
        self._states, self._say, self._models, self._clock = states, say, models, clock
        self._told: dict[str, tuple[announce.Mark, list[bytes]]] = {}

    def list_recent(self) -> list[tuple[str, ExperimentState]]:
        """Experiments that are not over, or ended lately, by name."""
        now = self._clock.now()
        found = sorted(self._states.items())
        return [(name, state) for name, state in found if state.ended is None or now - state.ended < STANDING_FOR]

    def send_standing(self, site: str) -> None:
        """Tell a site where its experiments are."""
        for name, state in self.list_recent():
            if site in state.members:
                body = kinds.Standing(state=state.phase.value, events=self._current_events(name, state))
                self._say.send_live("standing", body, experiment=name, to=site)

    def _current_events(self, experiment: str, state: ExperimentState) -> list[bytes]:
        """What is told to a site that returns: made once a phase and round, for 1,000 of them may ask at once."""
        mark = announce.state_mark(state)
        known = self._told.get(experiment)
        if known is None or known[0] != mark:
            known = (mark, [self._say.write_event(what).raw for what in announce.current_announcements(state)])
            self._told[experiment] = known
        return known[1]

    def send_chunks(self, experiment: str, wanted: kinds.ChunksWanted) -> None:
        """A site asks for chunks of a model: they go to all."""
        state = self._states.get(experiment)
        model = state.models.get(wanted.round) if state is not None else None
        if state is None or model is None or wanted.seal not in (model.seal, model.wire):
            log.warning("chunks of no model were asked for", experiment=experiment, round=wanted.round)
            return
        if wanted.seal not in e.needed_blobs(state):
            return
        chunks = None if wanted.chunks is None else tuple(wanted.chunks)
        sent = models.transfer_of(state, wanted.round, exact=wanted.seal == model.seal)
        self._models.send_shipment(make_shipment("global-chunk", experiment, sent, chunks))
