"""Whether experiments that wait for space on the coordinator's disk may go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordinator.core.state import ExperimentState, Phase
from coordinator.work.strategies.table import strategy_of
from messages.reasons import Reason

FIRST, LAST = 5.0, 300.0
"""Seconds until a paused experiment is tried again; doubled each time that it ran out of space at once."""


class Space:
    """Looks at the disk for those that wait.

    Args:
        folder: of the blobs.
        reserve: bytes that stay free for the journal.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder, self._reserve = folder, reserve
        self._tried: dict[str, tuple[float, float]] = {}

    def list_freed(self, states: Mapping[str, ExperimentState], now: float) -> Iterator[str]:
        """Experiments for which there is space again: as much as a round writes beside the updates, which is two models
        and what the strategy keeps."""
        waiting = [
            name
            for name, state in sorted(states.items())
            if state.phase is Phase.PAUSED and state.paused_because is Reason.DISK_FULL
        ]
        if not waiting:
            return
        free = shutil.disk_usage(self._folder).free - self._reserve
        for name in waiting:
            at, pause = self._tried.get(name, (now + FIRST, FIRST))
            self._tried[name] = (at, pause)
            if now >= at and free >= _written_in_a_round(states[name]):
                self._tried[name] = (now + min(LAST, 2 * pause), min(LAST, 2 * pause))
                yield name


def _written_in_a_round(state: ExperimentState) -> int:
    """Bytes; 0 before there is a model."""
    if state.manifest is None:
        return 0
    kept = strategy_of(state.experiment.plan.strategy).memory(state.manifest)
    return 2 * state.manifest.nbytes + (0 if kept is None else kept.nbytes)
