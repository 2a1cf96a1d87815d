"""A consortium in this process: the real coordinator and the real agents on a broker in memory, in virtual time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from coordinator.config import CoordinatorConfig
from coordinator.service import Coordinator
from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party, StreamSizes
from deploy.demo.consortium import CONSORTIUM, RESEARCHER, coordinator_content, list_roles, site_content
from deploy.demo.layout import DemoLayout
from deploy.provision.key_ring import make_key_ring
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from deploy.simulate.crew import Crew
from deploy.simulate.tempo import Tempo
from deploy.simulate.trainers import SharedTrainers
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.ground import settings
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.names import COORDINATOR, update_queue
from site_agent.config import SiteConfig
from site_agent.disk.secret import secret_of
from site_agent.service import Agent

Config = TypeVar("Config", bound=settings.Settings)
SIZES = StreamSizes(events=2**30, audit=2**30, model_chunks=2**30, update_chunks=2**30)
"""The broker's memory; chunks of updates go once their round is complete."""
ENDED_WITHIN = 60.0
"""Virtual seconds for a service to end."""


class SimulatedConsortium:
    """Made, driven and closed in `VirtualClock.run`.

    Args:
        layout: of the run, in which every party has its state folder.
        dataset: the experiment's name for the sites' data.
        sources: site → the keys under [datasets.NAME].
        threads: CPU threads of each site.
        gpus: whether the sites train on a GPU.
        on_broken: told what makes the simulation impossible.
    """

    def __init__(
        self,
        layout: DemoLayout,
        clock: Clock,
        crew: Crew,
        tempo: Tempo,
        *,
        dataset: str,
        sources: Mapping[str, Mapping[str, Any]],
        threads: int,
        gpus: bool,
        on_broken: Callable[[KonsilError], None],
    ) -> None:
        self._layout, self._clock = layout, clock
        self._drawn: dict[str, int] = {}
        self._dataset, self._sources, self._threads, self._gpus = dataset, sources, threads, gpus
        self._trainers = partial(SharedTrainers, crew=crew, tempo=tempo, on_broken=on_broken)
        roles = list_roles(sources)
        self._ring = make_key_ring(layout.run / "keys", CONSORTIUM, roles, seed="simulated")
        parties = [Party(name, role, "") for name, role in roles.items()]
        self.broker = MemoryBroker(render_definitions(CONSORTIUM, parties, SIZES), clock=clock)
        config = self._configure(COORDINATOR, coordinator_content(layout, tuple(sources)), CoordinatorConfig)
        self._coordinator = Coordinator(
            config,
            connect=lambda _config, notice: MemoryBus(self.broker, COORDINATOR, on_notice=notice),
            clock=clock,
        )
        self._running: dict[str, Thread] = {COORDINATOR: clock.make_thread(self._coordinator.run, COORDINATOR)}
        self._running[COORDINATOR].start()
        self._agents: dict[str, Agent] = {}

    def open_session(self) -> BrokerSession:
        """The researcher's."""
        plain = {"name": RESEARCHER, "role": "researcher", "consortium": CONSORTIUM}
        profile = self._configure(RESEARCHER, plain, Profile)
        bus = MemoryBus(self.broker, RESEARCHER)
        return BrokerSession(bus, profile, clock=self._clock, draw_name=lambda: "simulated")

    def start_site(self, site: str) -> None:
        """Start a site's agent, on the state of one that was stopped where there was one."""
        self._agents[site] = Agent(
            self._configure_site(site),
            lambda _config, notice: MemoryBus(self.broker, site, on_notice=notice),
            trainers=self._trainers,
            clock=self._clock,
            draw=partial(self._draw, site),
        )
        self._running[site] = self._clock.make_thread(self._agents[site].run, site)
        self._running[site].start()

    def _draw(self, site: str, size: int) -> bytes:
        """Bytes that follow from the site's secret, so that a run repeats; a hospital's are random."""
        number = self._drawn[site] = self._drawn.get(site, 0) + 1
        secret = secret_of(self._layout.site_folder(site))
        return hmac.new(secret, f"konsil simulated {number}".encode(), hashlib.sha256).digest()[:size]

    def stop_site(self, site: str) -> None:
        """Stop a site's agent, as its operator does."""
        agent = self._agents.pop(site, None)
        if agent is not None:
            agent.stop()
            self._running.pop(site).join(ENDED_WITHIN)

    def forget_updates(self, sites: Sequence[str]) -> None:
        """A round is complete: the broker's copies of its updates are of no use to anybody."""
        for site in sites:
            self.broker.truncate_stream(update_queue(site), keep=0)

    def close(self) -> None:
        """Stop all."""
        for site in [*self._agents]:
            self.stop_site(site)
        self._coordinator.stop()
        self._running[COORDINATOR].join(ENDED_WITHIN)

    def _configure_site(self, site: str) -> SiteConfig:
        content = site_content(
            self._layout,
            site,
            dataset=self._dataset,
            source=self._sources[site],
            threads=self._threads,
            gpus=[0] if self._gpus else [],
        )
        return self._configure(site, content, SiteConfig)

    def _configure(self, party: str, content: Mapping[str, Any], model: type[Config]) -> Config:
        """A party's configuration as its file would say it."""
        whole = {**content, "trust": self._ring.trust_of(party)}
        return settings.parse_settings(_written(whole), model, party)


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return str(value) if isinstance(value, Path) else value
