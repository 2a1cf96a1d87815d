"""A whole consortium in this process and in virtual time: real services, the bus in memory, trainers by script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, SITES, build, config
from scripted_trainers import ScriptedTrainers, Seconds

from coordinator.core.inputs import Received
from coordinator.record.journal import STEP, Journal
from coordinator.record.recovery import read_body
from coordinator.service import Coordinator
from coordinator.work.building import Build
from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party
from messages import codec, envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.ground.virtual.clock import VirtualClock
from messages.trust.keys import read_key
from messages.trust.settings import TrustSettings
from site_agent.config import SiteConfig
from site_agent.core.inputs import Switched
from site_agent.service import Agent

CASES = {"site-a": 40, "site-b": 60, "site-c": 80}


class VirtualConsortium:
    """Made, driven and closed in `clock.run`.

    Args:
        seconds: how long a round's training takes at a site.
        sites: those whose agents run.
        trust: party → its section `[trust]`; who has none neither signs nor checks.
        join: makes a party's connection with the broker.
        budget: section `privacy` of every site's data set.
        build: makes the initial model.
    """

    def __init__(
        self,
        folder: Path,
        clock: VirtualClock,
        seconds: Seconds,
        sites: tuple[str, ...] = SITES,
        trust: Mapping[str, Any] | None = None,
        join: Callable[..., MemoryBus] = MemoryBus,
        budget: Mapping[str, Any] | None = None,
        build: Build = build,
    ) -> None:
        self._budget, self._build = budget, build
        self.clock, self.folder, self._seconds, self._join = clock, folder, seconds, join
        self._admitted = tuple(sorted({*SITES, *sites}))
        self.trust: dict[str, Any] = dict(trust or {})
        parties = [Party("coordinator", "coordinator", "x"), Party("dr-a", "researcher", "x")]
        parties += [Party(site, "site", "x") for site in self._admitted]
        self.broker = MemoryBroker(render_definitions(CONSORTIUM, parties), clock=clock)
        self.heard: list[tuple[float, envelope.Event]] = []
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._down = self.researcher.subscribe("downlink", self._take)
        self._inbox = self.researcher.subscribe("inbox.dr-a", self._take)
        self._models = self.researcher.subscribe("models", self._take)
        self.coordinator = self._make_coordinator()
        self.agents = {site: self._agent(site) for site in sites}
        self._threads: list[threading.Thread] = [clock.make_thread(self.coordinator.run, "coordinator")]
        self._running = {site: clock.make_thread(partial(self._run_agent, site), site) for site in self.agents}
        self._threads += self._running.values()
        for thread in self._threads:
            thread.start()

    def _run_agent(self, site: str) -> None:
        self.agents[site].run()

    def _make_coordinator(self) -> Coordinator:
        own = self.trust.get("coordinator")
        trust = None if own is None else TrustSettings.model_validate(own)
        return Coordinator(
            config(self.folder / "coordinator", self._admitted).model_copy(update={"trust": trust}),
            connect=lambda _config, notice: self._join(self.broker, "coordinator", on_notice=notice),
            build=self._build,
            clock=self.clock,
        )

    def start_coordinator_again(self, between: Callable[[Path], None] = lambda state: None) -> None:
        """End the coordinator, do something to its state folder, and start another one on it."""
        self.coordinator.stop()
        self._threads[0].join(60.0)
        between(self.folder / "coordinator")
        self.coordinator = self._make_coordinator()
        self._threads[0] = self.clock.make_thread(self.coordinator.run, "coordinator")
        self._threads[0].start()

    def order(self, site: str, **switched: bool) -> None:
        """What the operator of a site tells its agent."""
        agent = self.agents[site]
        agent.post_work(lambda: agent._errands.apply_input(Switched(**switched)))

    def lives(self, site: str) -> bool:
        """Whether a site's agent still runs."""
        return self._running[site].is_alive()

    def start_again(self, site: str) -> None:
        """Another agent on the state of one that has ended."""
        self.agents[site] = self._agent(site)
        thread = self._running[site] = self.clock.make_thread(self.agents[site].run, site)
        self._threads.append(thread)
        thread.start()

    def _agent(self, site: str) -> Agent:
        state, data = self.folder / site, self.folder / f"data-{site}"
        data.mkdir(parents=True, exist_ok=True)
        described = {"source": "brats", "path": str(data), "labels": {2: "ED"}, "privacy": self._budget}
        plain: dict[str, Any] = {
            "schema": 1,
            "site": {"name": site, "consortium": CONSORTIUM, "state": str(state)},
            "datasets": {"glioma": described},
            "policy": {"approval": "auto", "allow": [{"researchers": ["dr-a"]}]},
            "trust": self.trust.get(site),
        }
        return Agent(
            SiteConfig.model_validate(plain),
            lambda c, notice: self._join(self.broker, c.site.name, on_notice=notice),
            trainers=partial(ScriptedTrainers, seconds=self._seconds, cases=CASES.get(site, 50)),
            clock=self.clock,
        )

    def _take(self, delivery: Delivery) -> None:
        if not delivery.key.startswith("model-chunk"):
            self.heard.append((self.clock.now(), envelope.decode_event(delivery.body)))
        {"downlink": self._down, "models": self._models}.get(delivery.queue, self._inbox).ack(delivery)

    def say(self, kind: str, body: kinds.Body, experiment: str = "exp-1", attempt: int = 1) -> None:
        self.publish(self.write_event(kind, body, experiment, attempt))

    def write_event(self, kind: str, body: kinds.Body, experiment: str = "exp-1", attempt: int = 1) -> envelope.Event:
        """An event of the researcher, signed where they have a key."""
        own = self.trust.get("dr-a")
        key = None if own is None else read_key(Path(own["key"]))
        return Author(CONSORTIUM, "dr-a", key=key).write_event(
            kind, body, time=self.clock.wall(), experiment=experiment, attempt=attempt, seq=attempt
        )

    def publish(self, event: envelope.Event) -> None:
        self.researcher.publish(event.key, event.raw)

    def of(self, kind: str) -> list[tuple[float, envelope.Event]]:
        """Events of the coordinator, and when they came; each once."""
        return list({one.id: (at, one) for at, one in reversed(self.heard) if one.kind == kind}.values())[::-1]

    def until(self, kind: str, within: float) -> envelope.Event:
        assert self.clock.wait_until(lambda: self.of(kind), within, every=60.0), [one.kind for _at, one in self.heard]
        return self.of(kind)[-1][1]

    def close(self) -> None:
        for agent in self.agents.values():
            agent.stop()
        self.coordinator.stop()
        for thread in self._threads:
            thread.join(60.0)
            assert not thread.is_alive()
        self.researcher.close()


def read_events(folder: Path, sites: Collection[str]) -> list[envelope.Event]:
    """What these sites said, as it stands in the coordinator's log."""
    journal = Journal(folder / "coordinator")
    try:
        given = [read_body(codec.unpack(entry.body))[0] for entry in journal.entries() if entry.type == STEP]
    finally:
        journal.close()
    return [one.event for one in given if isinstance(one, Received) and one.event.sender in sites]
