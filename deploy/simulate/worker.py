"""`python -m deploy.simulate.worker`: a training process that serves many sites. Started by `crew.Crew`.

It is the sites' own training process (`site_agent.training`) with another answer to `Prepare`: a session that is still
held is gone on with. A session's bits depend on nothing that an earlier request left in it, so which worker trains a
site, and how often its session is opened anew, changes none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from site_agent.training.__main__ import main as serve_agent
from site_agent.training.__main__ import open_session
from site_agent.training.protocol import Prepare, Reply
from site_agent.training.resuming.interrupt import Interrupt

if TYPE_CHECKING:  # imports torch
    from site_agent.training.session import TrainingSession
    from site_agent.training.statistics.session import MeasuringSession

HELD_BYTES = 256 * 2**20
"""Weights of all nets that are held: what a worker holds does not grow with the sites."""
HELD_SESSIONS = 64
"""Each maps its cases' files: the kernel allows a process 65,530 maps (vm.max_map_count)."""


class HeldSessions:
    """The sessions of the sites that were served last, by their cache folder."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Prepare, TrainingSession | MeasuringSession]] = {}

    def open_session(
        self, request: Prepare, send: Callable[[Reply], None], interrupt: Interrupt
    ) -> TrainingSession | MeasuringSession:
        """The session of a request: the one that is held, or a new one."""
        known = self._held.pop(request.cache, None)
        if known is None or known[0] != request:
            self._make_room()
            known = (request, open_session(request, send, interrupt))
        self._held[request.cache] = known  # the last one in the order is the one that was used last
        return known[1]

    def _make_room(self) -> None:
        while self._held and (
            len(self._held) >= HELD_SESSIONS or sum(one.net_bytes for _, one in self._held.values()) >= HELD_BYTES
        ):
            del self._held[next(iter(self._held))]


if __name__ == "__main__":
    raise SystemExit(serve_agent(HeldSessions().open_session))
