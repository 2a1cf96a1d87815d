"""What a kept format is made of and tried with: parties in memory, whose state lies in folders that can be packed.

`Scripted`: a real coordinator and three sites by script. `Pair`: a real coordinator and two real agents with the null
trainer's processes. Both are started on a broker that is new: nothing that lay in queues survives, as after a broker's
loss. (`keep_format` and `test_kept_formats` share this.)
"""

from __future__ import annotations

import sys
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brokers import PATIENCE, eventually
from coordinator_kit import CONSORTIUM, SITES, ScriptedSite, Waiting, build
from coordinator_rig import Consortium

from coordinator.config import CoordinatorConfig
from coordinator.core.state import ExperimentState
from coordinator.record.journal import open_readonly
from coordinator.record.recovery import recover_states
from coordinator.service import Coordinator
from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from site_agent.config import SiteConfig
from site_agent.core.jobs import Job
from site_agent.desk import control
from site_agent.disk.spool import Spool
from site_agent.service import Agent

CASES = {"site-a": 10, "site-b": 10, "site-c": 20}
"""Shares of the mean that are exact in binary: a quarter, a quarter, a half."""
RESEARCHERS = ("dr-a", "dr-c")
STRANGER = "dr-b"
"""May log in, and is no researcher of the coordinator's."""
PAIR = ("site-a", "site-b")
TRAINER = ("-m", "site_agent.training.null", "--memory", "--cases", "60")


# folders and their packed form


def pack_folder(folder: Path, out: Path, leave: Iterable[str] = ()) -> None:
    """Pack a folder; members are in order and carry no time, so the same content makes the same file.

    Args:
        leave: names of files and folders, at any depth, that stay out.
    """
    left = set(leave)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not left & set(inside.parts):
                member = zipfile.ZipInfo(str(inside), (1980, 1, 1, 0, 0, 0))
                packed.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def unpack_folder(packed: Path, folder: Path) -> Path:
    """Unpack what `pack_folder` packed; returns the folder."""
    with zipfile.ZipFile(packed) as members:
        members.extractall(folder)
    return folder


def read_members(packed: Path) -> dict[str, bytes]:
    """The packed files by name."""
    with zipfile.ZipFile(packed) as members:
        return {name: members.read(name) for name in members.namelist()}


# parties


def make_broker(sites: Iterable[str] = SITES) -> MemoryBroker:
    parties = [Party("coordinator", "coordinator", "x"), *(Party(site, "site", "x") for site in sites)]
    return MemoryBroker(
        render_definitions(
            CONSORTIUM, [*parties, *(Party(name, "researcher", "x") for name in (*RESEARCHERS, STRANGER))]
        )
    )


def make_coordinator(broker: MemoryBroker, folder: Path, sites: Iterable[str] = SITES) -> Coordinator:
    identity = {"consortium": CONSORTIUM, "state": folder, "sites": tuple(sites), "researchers": RESEARCHERS}
    config = CoordinatorConfig.model_validate(
        {"schema": 1, "coordinator": identity, "limits": {"disk_reserve": 0, "keep_updates": 3}}
    )
    return Coordinator(
        config, connect=lambda _config, notice: MemoryBus(broker, "coordinator", on_notice=notice), build=build
    )


def read_states(folder: Path) -> dict[str, ExperimentState]:
    """Where the experiments of a journal are; a running coordinator may write it meanwhile."""
    return recover_states(open_readonly(folder))


class LosingSite(ScriptedSite):
    """Loses chunks of the updates that it is told to lose, and knows the updates of several experiments apart."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.losing: dict[tuple[str, int], set[int]] = {}
        self.deaf_to: set[str] = set()
        """Experiments to whose events it never answers."""
        self._sealed: dict[tuple[str, int], Any] = {}
        super().__init__(broker, name, CASES[name])

    def send_update(self, experiment: str, number: int, chunks: list[int] | None, skip: set[int] | None = None) -> None:
        self.updates[number] = self._sealed.setdefault((experiment, number), self.updates[number])
        super().send_update(experiment, number, chunks, self.losing.get((experiment, number), set()))

    def _event(self, event: envelope.Event) -> None:
        if event.experiment not in self.deaf_to:
            super()._event(event)

    def sent(self, experiment: str, number: int) -> bool:
        return (experiment, number) in self._sealed


class Scripted(Consortium):
    """The coordinator with three sites by script (`coordinator_rig`), and every researcher's login."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.researcher.close()
        self.broker = make_broker()
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._down = self.researcher.subscribe("downlink", self._take)
        self._audit = self.researcher.subscribe("audit", self._entry)
        self._models = self.researcher.subscribe("models", self._take)

    def start(self) -> Coordinator:
        self.coordinator = make_coordinator(self.broker, self.folder)
        self.thread = threading.Thread(target=self.coordinator.run)
        self.thread.start()
        return self.coordinator

    def join(self) -> None:
        self.sites += [LosingSite(self.broker, name) for name in SITES]

    def say_as(
        self, who: str, kind: str, body: kinds.Body, experiment: str, *, number: int = 0, attempt: int = 1
    ) -> None:
        """Say an event in a party's name, on a connection of its own."""
        event = Author(CONSORTIUM, who, 1).write_event(
            kind, body, time=float(attempt), experiment=experiment, round_number=number, attempt=attempt, seq=attempt
        )
        bus = MemoryBus(self.broker, who)
        bus.publish(event.key, event.raw)
        bus.close()

    def told(self, kind: str, experiment: str) -> envelope.Event:
        """Wait for the coordinator to tell this kind of event of an experiment."""
        found: list[envelope.Event] = []

        def there() -> bool:
            found[:] = [one for one in self.heard if (one.kind, one.experiment) == (kind, experiment)]
            return bool(found)

        self.news.until(there, f"{kind} of {experiment}")
        return found[-1]

    def until_state(self, experiment: str, what: str, holds: Any) -> None:
        """Wait until the journal holds an experiment in a state for which `holds` is true."""

        def there() -> bool:
            state = read_states(self.folder).get(experiment)
            return state is not None and bool(holds(state))

        eventually(there, what=f"{experiment}: {what}")


class AgentThread:
    """A real agent on a thread of its own."""

    def __init__(self, broker: MemoryBroker, config: SiteConfig) -> None:
        self.state = config.site.state
        self._agent = Agent(config, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
        self._thread = threading.Thread(target=self._agent.run, daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any]:
        return control.ask_agent(self.state, {"do": "status"})

    def stop(self) -> None:
        self._agent.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class Pair:
    """A real coordinator and two real agents; each party's state lies in a folder of its name.

    Args:
        trainer: the training process's command.
    """

    def __init__(self, folder: Path, trainer: tuple[str, ...] = (sys.executable, *TRAINER)) -> None:
        self.folder = folder
        self.broker = make_broker(PAIR)
        self.news = Waiting()
        self.heard: list[envelope.Event] = []
        self._trainer = trainer
        self._data = folder.with_name(f"{folder.name}-data")
        self._data.mkdir(parents=True, exist_ok=True)
        self._coordinator: Coordinator | None = None
        self._thread: threading.Thread | None = None
        self.agents: dict[str, AgentThread] = {}
        self._researcher = MemoryBus(self.broker, "dr-a")
        self._down = self._researcher.subscribe("downlink", self._take)

    def _take(self, delivery: Delivery) -> None:
        self.heard.append(envelope.decode_event(delivery.body))
        self._down.ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def start(self) -> None:
        self._coordinator = make_coordinator(self.broker, self.folder / "coordinator", PAIR)
        self._thread = threading.Thread(target=self._coordinator.run)
        self._thread.start()
        for name in PAIR:
            self.agents[name] = AgentThread(self.broker, self._config(name))

    def _config(self, name: str) -> SiteConfig:
        plain = {
            "schema": 1,
            "site": {"name": name, "consortium": CONSORTIUM, "state": str(self.folder / name)},
            "datasets": {"glioma": {"source": "brats", "path": str(self._data), "labels": {2: "ED"}}},
            "policy": {"approval": "auto", "allow": [{"researchers": list(RESEARCHERS)}]},
            "training": {"command": list(self._trainer)},
        }
        return SiteConfig.model_validate(plain)

    def start_experiment(self, plain: dict[str, Any]) -> None:
        event = Author(CONSORTIUM, "dr-a").write_event(
            "experiment-start", kinds.ExperimentStart(experiment=plain), time=1.0, experiment=plain["id"], seq=1
        )
        self._researcher.publish(event.key, event.raw)

    def complete(self, experiment: str) -> kinds.ExperimentComplete:
        """Wait until an experiment is complete."""
        found: list[kinds.ExperimentComplete] = []

        def there() -> bool:
            told = [one.body for one in self.heard if one.experiment == experiment]
            found[:] = [body for body in told if isinstance(body, kinds.ExperimentComplete)]
            return bool(found)

        self.news.until(there, f"{experiment} complete; heard {[(one.kind, one.experiment) for one in self.heard]}")
        return found[-1]

    def stop_coordinator(self) -> None:
        if self._coordinator is not None and self._thread is not None:
            self._coordinator.stop()
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
            self._coordinator = None

    def stop_agents(self) -> None:
        for agent in self.agents.values():
            agent.stop()
        self.agents.clear()

    def close(self) -> None:
        self.stop_coordinator()
        self.stop_agents()
        self._researcher.close()


def read_jobs(state: Path, site: str) -> tuple[dict[str, Job], list[str], dict[str, int]]:
    """What a site's spool holds, of an agent that is stopped: jobs, kinds that wait for a receipt, rows by table.

    To open a spool is a start of the agent: its incarnation goes up.
    """
    spool = Spool(state)
    try:
        agenda = spool.load_agenda(site)
        return dict(agenda.jobs), [one.kind for one in spool.list_waiting()], dict(spool.count_rows())
    finally:
        spool.close()
