"""Coordinator, three sites and a researcher in one process and in virtual time; each party may be killed, stopped, and
come back; each disk may be full.

A kill is an exception that no service catches: at once, or where a decision is stored and nothing of it is done
(`messages.ground.crash.pass_step`). What takes time in production (building,
averaging, verifying, training) waits as long by the clock.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from coordinator_kit import CONSORTIUM, SITES, build, config, plain
from interleaving_plan import COORDINATOR, Act, Fault, Plan
from scripted_trainers import ScriptedTrainers
from virtual_consortium import CASES

from coordinator.core.state import ExperimentState
from coordinator.service import Coordinator
from coordinator.work import pool
from deploy.broker.definitions import Party, render_definitions
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.ground import crash
from messages.ground.errors import KonsilError
from messages.ground.virtual.clock import VirtualClock
from site_agent.config import SiteConfig
from site_agent.service import Agent
from site_agent.training.protocol import Prepare, Request, Train

NAME = "exp-1"
ROUNDS = {"count": 2, "enrol_within": 600.0, "train_within": 400.0, "grace": 15.0}
PAGES = 2**30


class Killed(BaseException):
    """The process would be gone here."""


class World:
    """Made, driven and closed in `clock.run`, within `patched`."""

    def __init__(self, folder: Path, clock: VirtualClock, plan: Plan) -> None:
        self.folder, self.clock, self.plan = folder, clock, plan
        parties = [Party(COORDINATOR, COORDINATOR, "x"), Party("dr-a", "researcher", "x")]
        parties += [Party(site, "site", "x") for site in SITES]
        self.broker = MemoryBroker(render_definitions(CONSORTIUM, parties), clock=clock)
        self.heard: dict[str, envelope.Event] = {}
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._down = self.researcher.subscribe("downlink", self._take)
        self._models = self.researcher.subscribe("models", self._take)
        self.services: dict[str, Coordinator | Agent] = {}
        """Who is up."""
        self.kills: Counter[str] = Counter()
        self.deaths: list[str] = []
        self.starts = 0
        self._full: dict[str, float] = {}
        """Whose disk is full → until when."""
        self.stuck = set[str]()
        """Whose disk takes not a byte."""
        self._armed: dict[str, float] = {}
        """Who is killed behind its next decision → how long it stays away."""
        self._away: dict[str, float] = {}
        self._stopped: set[str] = set()
        self._over = False
        self._words = 1
        self._threads = {
            name: clock.make_thread(partial(self._live, name), f"party-{name}") for name in (COORDINATOR, *SITES)
        }

    def start(self) -> None:
        for thread in self._threads.values():
            thread.start()

    def close(self) -> None:
        self._over = True
        for name in [*self._full]:
            self.free_disk(name)
        for name in [*self.services]:
            self._end(name)
        for thread in self._threads.values():
            thread.join(600.0)
            if thread.is_alive():
                self.deaths.append(f"{thread.name} does not end")
        self.researcher.close()

    # parties

    def _live(self, name: str) -> None:
        """A party, started again whenever it was killed or stopped."""
        while not self._over:
            self._away[name] = 0.0
            try:
                self.starts += 1
                service = self._make_coordinator() if name == COORDINATOR else self._make_agent(name)
                self.services[name] = service
                if name in self.stuck:
                    self._limit_database(name, 1)
                service.run()
                if not (name in self._stopped or self._over):
                    self.deaths.append(f"{name} ended by itself")
                    return
            except Killed:
                pass
            except KonsilError as error:
                if not (name in self._stopped or self._over):
                    self.deaths.append(f"{name}: {error}")
                    return
            except Exception as error:  # noqa: BLE001 (what ended a service is what the test is for)
                self.deaths.append(f"{name}: {type(error).__name__}: {error}")
                return
            finally:
                self.services.pop(name, None)
            self._stopped.discard(name)
            if self._away[name]:
                self.clock.sleep(self._away[name])

    def _make_coordinator(self) -> Coordinator:
        def slowly(*given: Any) -> None:
            self.work("build")
            build(*given)

        return Coordinator(
            config(self.folder / COORDINATOR),
            connect=lambda _config, notice: MemoryBus(self.broker, COORDINATOR, on_notice=notice, lock_wait=60.0),
            build=slowly,
            clock=self.clock,
        )

    def work(self, what: str) -> None:
        """The coordinator's pool is at this for a while; its process may be gone, or its disk full, behind it."""
        kills = self.kills[COORDINATOR]
        self.clock.sleep(self.plan.works[what])
        if self.kills[COORDINATOR] != kills:
            raise KonsilError("its process is gone")
        if self.is_full(self.folder / COORDINATOR):
            raise OSError(errno.ENOSPC, "No space left on device")

    def _make_agent(self, site: str) -> Agent:
        state, data = self.folder / site, self.folder / f"data-{site}"
        data.mkdir(parents=True, exist_ok=True)
        plain_: dict[str, Any] = {
            "schema": 1,
            "site": {"name": site, "consortium": CONSORTIUM, "state": str(state)},
            "datasets": {"glioma": {"source": "brats", "path": str(data), "labels": {2: "ED"}}},
            "policy": {"approval": "auto", "allow": [{"researchers": ["dr-a"]}]},
        }
        trainers = partial(
            ScriptedTrainers,
            seconds=lambda site, number: self.plan.trains[site, number],
            cases=CASES[site],
            pause=self._pause_of,
        )
        return Agent(
            SiteConfig.model_validate(plain_),
            lambda c, notice: MemoryBus(self.broker, c.site.name, on_notice=notice, lock_wait=60.0),
            trainers=trainers,
            clock=self.clock,
        )

    def _pause_of(self, site: str, request: Request) -> float:
        if isinstance(request, Train):
            return 0.0
        return self.plan.works["prepare" if isinstance(request, Prepare) else "evaluate"]

    # what is done to them

    def strike(self, fault: Fault) -> None:
        if fault.act is Act.PAUSE:
            self.say("experiment-pause", kinds.ExperimentPause())
        elif fault.act is Act.RESUME:
            self.say("experiment-resume", kinds.ExperimentResume())
        elif fault.act is Act.ABORT:
            self.say("experiment-abort", kinds.ExperimentAbort())
        elif fault.act in (Act.DISK_FULL, Act.NO_BYTE):
            self._full[fault.where] = self.clock.monotonic() + fault.lasts
            if fault.act is Act.NO_BYTE:
                self.stuck.add(fault.where)
                self._limit_database(fault.where, 1)
        elif fault.act is Act.DISK_FREE:
            self.free_disk(fault.where)
        elif fault.act is Act.KILL_BEHIND:
            self._armed[fault.where] = fault.lasts
        else:
            self._away[fault.where] = fault.lasts
            if fault.act is Act.KILL:
                self._kill(fault.where)
            else:
                self._end(fault.where)

    def _kill(self, name: str) -> None:
        def die() -> None:
            self.kills[name] += 1
            raise Killed

        service = self.services.get(name)
        if isinstance(service, Coordinator):
            service._queue.put(die)
        elif service is not None:
            service.post_work(die)

    def _end(self, name: str) -> None:
        service = self.services.get(name)
        if service is not None:
            self._stopped.add(name)
            service.stop()

    def passed(self, step: str) -> None:
        """A service is behind a decision: killed there if it was to be."""
        name = threading.current_thread().name.removeprefix("party-")
        away = self._armed.pop(name, None)
        if away is not None:
            self._away[name] = away
            self.kills[name] += 1
            raise Killed(step)

    def is_full(self, folder: Any) -> bool:
        return any(str(folder).startswith(str(self.folder / name)) for name in self._full)

    def free_due(self) -> None:
        """Disks that were full for long enough have space again."""
        for name, until in [*self._full.items()]:
            if self.clock.monotonic() >= until:
                self.free_disk(name)

    def free_disk(self, name: str) -> None:
        self._full.pop(name, None)
        self.stuck.discard(name)
        self._limit_database(name, PAGES)

    def _limit_database(self, name: str, pages: int) -> None:
        """SQLite's limit is never below what the file has: so no page more."""
        service = self.services.get(name)
        if service is not None:
            db = service.journal._db if isinstance(service, Coordinator) else service.spool._db
            db.execute(f"PRAGMA max_page_count = {pages}")

    # the researcher

    def say(self, kind: str, body: kinds.Body) -> None:
        self._words += 1
        event = Author(CONSORTIUM, "dr-a").write_event(
            kind, body, time=self.clock.wall(), experiment=NAME, attempt=self._words, seq=self._words
        )
        self.researcher.publish(event.key, event.raw)

    def begin(self) -> None:
        quorum = {"least_sites": self.plan.least_sites}
        self.say("experiment-start", kinds.ExperimentStart(experiment=plain(rounds=ROUNDS, quorum=quorum)))

    def _take(self, delivery: Delivery) -> None:
        if not delivery.key.startswith("model-chunk"):
            event = envelope.decode_event(delivery.body)
            self.heard[event.id] = event
        (self._down if delivery.queue == "downlink" else self._models).ack(delivery)

    def state(self) -> ExperimentState | None:
        """What the coordinator knows of the experiment; None while it is away."""
        service = self.services.get(COORDINATOR)
        return service.shell.steps.states.get(NAME) if isinstance(service, Coordinator) else None

    def agent(self, site: str) -> Agent | None:
        service = self.services.get(site)
        return service if isinstance(service, Agent) else None


@contextmanager
def patched(world: Callable[[], World]) -> Iterator[None]:
    """Steps, long work and disks are the world's."""
    usage, average, finite = shutil.disk_usage, pool.average, pool.is_finite

    def disk_usage(folder: Any) -> Any:
        found = usage(folder)
        return found._replace(free=0) if world().is_full(folder) else found

    def slowly(work: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            world().work(work)
            return original(*given, **more)

        return run

    with (
        patch.object(crash, "pass_step", lambda step: world().passed(step)),
        patch.object(shutil, "disk_usage", disk_usage),
        patch.object(pool, "average", slowly("average", average)),
        patch.object(pool, "is_finite", slowly("verify", finite)),
    ):
        yield
