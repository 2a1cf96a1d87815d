"""What the agent says: history events through the outbox until they are receipted, live ones once and never again."""

from __future__ import annotations

import platform
from importlib.metadata import version

import structlog

from messages.bus.base import Bus
from messages.envelope import Author, event_id
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import Body, Hello
from messages.names import COORDINATOR, RoutingKey
from site_agent.core.effects import Say
from site_agent.disk.spool import Spool, Waiting

log = structlog.get_logger()

AGAIN_AFTER = 30.0
"""Seconds without a receipt until an event is published again (docs/architecture.md, rule 2)."""


class Post:
    """One running agent's voice. Used by the main loop; `live` by any thread."""

    def __init__(self, bus: Bus, spool: Spool, consortium: str, site: str, clock: Clock) -> None:
        self._bus, self._spool, self._clock = bus, spool, clock
        self._author = Author(consortium, site, spool.incarnation)
        self._published: dict[str, float] = {}
        self._live = 0
        self.connected = True

    def say(self, effect: Say, now: float) -> None:
        """Write a history event to the outbox; inside the transaction that caused it. Said once, it stays as it is."""
        identity = event_id(effect.experiment, effect.round, effect.kind, self._author.name, effect.attempt)
        if not self._spool.see(identity, now):
            return
        event = self._author.write(
            effect.kind,
            effect.body,
            time=now,
            experiment=effect.experiment,
            round_number=effect.round,
            attempt=effect.attempt,
            seq=self._spool.next_seq(),
        )
        self._spool.post(event, effect.attempt if isinstance(effect.attempt, int) else 1)

    def publish(self, *, everything: bool = False) -> None:
        """Publish what is new in the outbox or was not receipted for long; `everything`: all of it (reconnected)."""
        if not self.connected:
            return
        now = self._clock.monotonic()
        for event in self._spool.waiting():
            last = self._published.get(event.id)
            if everything or last is None or now - last >= AGAIN_AFTER:
                self._published[event.id] = now
                self._send(event.key, event.raw)

    def receipted(self, identity: str, now: float) -> Waiting | None:
        """The coordinator has stored an event of ours."""
        self._published.pop(identity, None)
        return self._spool.receipted(identity, now)

    def live(
        self,
        kind: str,
        body: Body,
        *,
        experiment: str = NO_EXPERIMENT,
        round_number: int = 0,
        addressee: str | None = None,
    ) -> None:
        """Publish something that may be lost; dropped while there is no connection."""
        if not self.connected:
            return
        self._live += 1
        event = self._author.write(
            kind,
            body,
            time=self._clock.wall(),
            experiment=experiment,
            round_number=round_number,
            attempt=f"{self._author.incarnation}.{self._live}.{round(1e9 * self._clock.wall())}",
        )
        key = RoutingKey(kind, event.sender, experiment, addressee)
        self._send(str(key), event.raw)

    def hello(self) -> None:
        """Say that the site is online, after everything that still waits for its receipt."""
        self.publish(everything=True)
        versions = {"konsil": version("konsil"), "python": platform.python_version()}
        self.live("hello", Hello(versions=versions))

    def ask_coordinator(self, kind: str, body: Body, experiment: str) -> None:
        """Something for the coordinator's inbox."""
        self.live(kind, body, experiment=experiment, addressee=COORDINATOR)

    def _send(self, key: str, raw: bytes) -> None:
        try:
            self._bus.publish(key, raw)
        except KonsilError as error:
            log.warning("cannot publish", key=key, error=str(error))
