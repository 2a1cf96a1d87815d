"""Coordinator and real site agents on the bus in memory, each killed and started again where a test says.

A kill is an exception that no service catches, raised behind the transaction that stores what was decided and before
anything of it is done (`messages.ground.crash.pass_step`). The trainers are the null trainer's real processes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from brokers import PATIENCE
from coordinator_kit import CONSORTIUM, SITES, Waiting, broker, build, config

from coordinator.service import Coordinator
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.ground import crash
from messages.ground.errors import RequestError
from site_agent.config import SiteConfig
from site_agent.service import Agent

COORDINATOR = "coordinator"
WITH_EACH_START = frozenset({"agent:ignore", "agent:recover", "agent:switch", "coordinator:outage"})
"""A kill there would come again for ever."""
DONE_AGAIN = frozenset({"agent:begin", "agent:fetched", "agent:recount"})
"""What a site does again after it was killed behind them: so they are killed a few times only."""


def everywhere(step: str, count: int) -> bool:
    """Killed behind every entry and decision."""
    return step not in DONE_AGAIN or count <= 3


class Killed(BaseException):
    """The process would be gone here."""


class Service(Protocol):
    def run(self) -> Any: ...
    def stop(self) -> None: ...


class Party(threading.Thread):
    """One party, started again whenever it was killed."""

    def __init__(self, name: str, make: Callable[[], Service]) -> None:
        super().__init__(name=name, daemon=True)
        self._make = make
        self.service: Service | None = None
        self.over = False
        self.kills = 0

    def run(self) -> None:
        while not self.over:
            try:
                self.service = self._make()
                if self.over:  # it was told so while another one was made
                    self.service.stop()
                self.service.run()
            except Killed:
                self.kills += 1
            except RequestError:
                # Its lock lives on in the child that another agent of this process forks, until that child runs.
                time.sleep(0.01)

    def end(self) -> None:
        self.over = True
        if self.service is not None:
            self.service.stop()
        self.join(PATIENCE)
        assert not self.is_alive()


class Federation:
    """A broker, a coordinator, site agents, a researcher."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, sites: tuple[str, ...] = SITES) -> None:
        self.folder, self.broker, self.news = folder, broker(), Waiting()
        self.heard: list[envelope.Event] = []
        self.passed: Counter[str] = Counter()
        self.kill: Callable[[str, int], bool] = lambda _step, _count: False
        """Asked at each step of a main loop, with how often it was come to: whether the party is killed there."""
        patch.setattr(crash, "pass_step", self._passed)
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._down = self.researcher.subscribe("downlink", self._take)
        self.coordinator = Party(COORDINATOR, self._make_coordinator)
        self.agents = {site: Party(site, lambda site=site: self._make_agent(site)) for site in sites}  # type: ignore[misc]

    def start(self) -> None:
        for party in (self.coordinator, *self.agents.values()):
            party.start()

    def close(self) -> None:
        self.kill = lambda _step, _count: False
        for party in (*self.agents.values(), self.coordinator):
            party.end()
        self.researcher.close()

    @property
    def kills(self) -> int:
        return self.coordinator.kills + sum(party.kills for party in self.agents.values())

    def _make_coordinator(self) -> Coordinator:
        return Coordinator(
            config(self.folder / COORDINATOR),
            connect=lambda _config, notice: MemoryBus(self.broker, COORDINATOR, on_notice=notice, lock_wait=PATIENCE),
            build=build,
        )

    def _make_agent(self, site: str) -> Agent:
        state = self.folder / site
        state.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "site_agent.training.null", "--seconds", "0"]
        plain: dict[str, Any] = {
            "schema": 1,
            "site": {"name": site, "consortium": CONSORTIUM, "state": str(state)},
            "datasets": {"glioma": {"source": "brats", "path": str(state), "labels": {3: "ED"}}},
            "policy": {"approval": "auto", "allow": [{"researchers": ["dr-a"]}]},
            "training": {"command": command},
        }
        found = SiteConfig.model_validate(plain)
        return Agent(found, lambda c, notice: MemoryBus(self.broker, c.site.name, on_notice=notice, lock_wait=PATIENCE))

    def _passed(self, step: str) -> None:
        party = threading.current_thread()
        if not isinstance(party, Party) or step in WITH_EACH_START:
            return
        self.passed[step] += 1
        if self.kill(step, self.passed[step]):
            raise Killed(step)

    def _take(self, delivery: Delivery) -> None:
        self.heard.append(envelope.decode_event(delivery.body))
        self._down.ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def publish(self, experiment: dict[str, Any]) -> None:
        body = kinds.ExperimentStart(experiment=experiment)
        event = Author(CONSORTIUM, "dr-a").write_event(
            "experiment-start", body, time=0.0, experiment=experiment["id"], seq=1
        )
        self.researcher.publish(event.key, event.raw)

    def until(self, kind: str) -> envelope.Event:
        found: list[envelope.Event] = []

        def there() -> bool:
            found[:] = [one for one in self.heard if one.kind == kind]
            return bool(found)

        self.news.until(there, f"{kind}; heard {[one.kind for one in self.heard]}", within=4 * PATIENCE)
        return found[-1]
