"""A consortium of real processes whose parts can be broken one by one, and which serves many experiments.

Each party's line to the broker goes through a proxy of its own. Whatever ends is started again, as systemd would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from chaos_plan import PARTIES, SITES, Fault, Shape
from proxy import FaultyProxy

from coordinator.core import decisions as d
from coordinator.core.evolve import evolve
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_step
from deploy.broker import keeper
from deploy.broker.node import PrivateNode
from deploy.broker.topology import StreamSizes
from deploy.demo import consortium as consortia
from deploy.demo import data, experiments
from deploy.demo.layout import DemoLayout, prepare_layout
from deploy.demo.processes import Child, Children
from deploy.session import profile as profiles
from deploy.session.connection import BrokerSession, connect_rabbit
from messages import chain, kinds, names
from messages.experiment import Experiment
from messages.ground import crash, settings
from messages.ground.errors import KonsilError

HEARTBEAT = 5
LINKS = 4
"""Connections of a party: events and chunks, each in and out."""
SETTLED = 12.0
"""Seconds after a first boot in which RabbitMQ may lose streams for good if it is killed."""
CASES = 10
PHANTOM = data.PhantomShape((24, 24, 18), (7.0, 7.5, 7.0))
MARK = "KONSIL_CHAOS"
SIZES = StreamSizes(
    events=128 * 2**20, audit=256 * 2**20, model_chunks=2**28, update_chunks=2**27, segment=16 * 2**20,
    small_segment=2**20,
)  # fmt: skip
UNFINISHED = (".part", ".have", ".new")


def experiment(identity: str, shape: Shape, *, everybody: bool) -> Experiment:
    """What the sites train together."""
    plain = experiments.glioma_demo(rounds=shape.rounds, seed=7, sites=SITES)
    plain["id"] = identity
    plain["data"]["least_cases"] = 2
    if shape.torch:
        plain["net"] = {"name": "UNet", "channels": [4, 8], "strides": [2], "num_res_units": 0}
        plain["training"] |= {"patch": [16, 16, 16], "patches_per_case": 1}
    else:
        plain["net"] = {"name": "Rehearsal", "tensors": 5, "kilobytes": 2200}
    if shape.codec != "float32":
        plain["wire"] = {"codec": shape.codec}
    if shape.select:
        plain["evaluation"]["select_by"] = "validation.dice.mean"
    if not everybody:
        plain["quorum"] = {"least_sites": 2, "least_case_share": 0.5}
        plain["rounds"] |= {"grace": "2s"}
    return settings.parse_settings(plain, Experiment, identity)


@dataclass
class Eye:
    """What the coordinator's journal says of one experiment, read as it grows."""

    journal: Path
    experiment: str
    state: ExperimentState | None = None
    contributors: dict[int, tuple[str, ...]] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    """By round."""
    index: int = 0

    def look(self) -> ExperimentState | None:
        """The state by now."""
        with contextlib.suppress(sqlite3.OperationalError):  # before the journal's first entry, or while it is made
            for entry in self._new():
                self.index = entry.index
                if entry.type == STEP:
                    self._take(read_step(entry)[1])
        return self.state

    def _new(self) -> list[chain.Entry]:
        return entries(self.journal, self.experiment, self.index)

    def _take(self, decided: tuple[d.AnyDecision, ...]) -> None:
        for decision in decided:
            self.state = evolve(self.state, decision)
            if isinstance(decision, d.RoundClosed):
                self.contributors[decision.number] = tuple(sorted(decision.contributors))
            elif isinstance(decision, d.RoundCompleted):
                self.digests[decision.number] = decision.digest


def entries(journal: Path, experiment: str, after: int = 0) -> list[chain.Entry]:
    """Entries of an experiment from an index on; the coordinator may be running, or dead."""
    with contextlib.closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True, timeout=30)) as db:
        asked = "SELECT data FROM entries WHERE experiment = ? AND idx > ? ORDER BY idx"
        return [chain.decode_entry(data) for (data,) in db.execute(asked, (experiment, after))]


class World:
    """The consortium.

    Args:
        folder: everything is kept below it.
        torch: the sites train for good, on phantoms.
    """

    def __init__(self, folder: Path, *, torch: bool) -> None:
        self.layout: DemoLayout = prepare_layout(folder)
        self.consortium = consortia.Consortium.invent_logins(self.layout, SITES, SIZES)
        self.definitions = self.consortium.make_definitions()
        self.node = PrivateNode(self.layout.broker, definitions=self.definitions)
        self.children = Children()
        self.services: dict[str, Child] = {}
        self.proxies: dict[str, FaultyProxy] = {}
        self.torch = torch
        self.token = f"{os.getpid()}-{folder.name}"
        self.settled_at = 0.0
        self.unexpected: list[str] = []

    def start(self) -> None:
        """Everything, connected."""
        self.boot()
        for party in PARTIES:
            self.proxies[party] = FaultyProxy((self.node.host, self.node.port)).start()
        self._configure()
        for party in PARTIES:
            self.run(party)
        self.wait(self._up, 180.0, f"all are connected, {self.layout.logs} tells more")

    def _up(self) -> bool:
        """Whether all are connected; who found no broker yet is started again, as systemd would."""
        for party, child in list(self.services.items()):
            if not child.running:
                self.run(party)
        return all(self.status(site) for site in SITES) and all(
            proxy.open_connections for proxy in self.proxies.values()
        )

    def boot(self) -> None:
        """Start the broker with no data."""
        self.node.start()
        self.settled_at = time.monotonic() + SETTLED

    def _configure(self) -> None:
        self.consortium.write_coordinator(self.proxies[names.COORDINATOR].port)
        self.consortium.write_profile(self.node.port)
        if self.torch:
            for one in data.start_writing(self.children, self.layout, SITES, CASES, 7, PHANTOM):
                if one.process.wait(120) != 0:
                    one.check_alive()
        null = (sys.executable, "-m", "site_agent.training.null", "--cases", "20", "--seconds", "0.4", "--memory")
        for index, site in enumerate(SITES):
            (self.layout.data / site).mkdir(exist_ok=True)
            self.consortium.write_site(
                site, self.proxies[site].port, dataset="glioma", source=data.phantom_source(self.layout, site, index),
                threads=1, gpus=[], trainer=None if self.torch else null,
            )  # fmt: skip
            if self.torch:  # after every step: whatever is killed in training goes on from a checkpoint
                path = self.consortium.config_of(site)
                path.write_text(path.read_text().replace("[training]\n", '[training]\ncheckpoint_every = "1ms"\n'))
            state = self.layout.site_folder(site)
            state.mkdir(mode=0o700)
            secret = state / "secret"  # it decides the split of the cases: the same in every world
            secret.write_bytes(site.encode().ljust(32, b"."))
            secret.chmod(0o600)
        for party in PARTIES:
            path = self.consortium.config_of(party)
            path.write_text(path.read_text().replace("[broker]\n", f"[broker]\nheartbeat_seconds = {HEARTBEAT}\n"))

    # services

    def run(self, party: str) -> None:
        """Start a service."""
        module = "coordinator" if party == names.COORDINATOR else "site_agent"
        command = [sys.executable, "-m", module, "--config", str(self.consortium.config_of(party))]
        more = {crash.AT: str(self.crash_file(party)), MARK: self.token, "OMP_NUM_THREADS": "1"}
        self.services[party] = self.children.start_child(party, command, self.layout.log_of(party), environment=more)

    def crash_file(self, party: str) -> Path:
        """Where a service is told at which step to die."""
        return self.layout.run / f"{party}.crash"

    def trainer(self, site: str) -> psutil.Process | None:
        """The site's training process, if it has one now."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.services[site].process.pid).children():
                if any("site_agent.training" in word for word in child.cmdline()):
                    return child
        return None

    def broker_pids(self) -> list[int]:
        """The server's processes."""
        return [] if self.node.pid is None else keeper.list_descendants(self.node.pid)

    def status(self, site: str) -> bool:
        """Whether the agent listens (its control socket is there once it has its inbox)."""
        return (self.layout.site_folder(site) / "agent.sock").exists()

    def publish(self, one: Experiment) -> None:
        """experiment-start, straight to the broker."""
        profile = profiles.load_profile(self.layout.profile)
        with BrokerSession(connect_rabbit(profile), profile) as session:
            session.publish_event("experiment-start", kinds.ExperimentStart(experiment=one.as_plain()), one.id)

    def eye(self, identity: str) -> Eye:
        """To watch an experiment with."""
        return Eye(self.layout.coordinator / "journal.sqlite", identity)

    # what is left

    def family(self) -> Iterator[psutil.Process]:
        """Every process that a service of this world started, and the services."""
        wanted = f"{MARK}={self.token}".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if wanted in Path("/proc", str(process.pid), "environ").read_bytes().split(b"\0"):
                    yield process

    def strays(self) -> list[str]:
        """Processes besides the services."""
        known = {child.process.pid for child in self.services.values()}
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if process.pid not in known and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:160]}")
        return found

    def files(self, identity: str) -> list[str]:
        """Unfinished files anywhere, and models and updates that a site keeps of an experiment that ended."""
        found = []
        for party in PARTIES:
            root = self.layout.coordinator if party == names.COORDINATOR else self.layout.site_folder(party)
            for path in root.rglob("*"):
                kept = path.parent.name in ("globals", "updates") and path.name.startswith(f"{identity}.")
                if path.suffix in UNFINISHED or kept:
                    found.append(str(path.relative_to(self.layout.run)))
        return found

    def connections(self) -> list[str]:
        """Parties that hold more connections than the bus has links."""
        return [
            f"{party} holds {proxy.open_connections} connections"
            for party, proxy in self.proxies.items()
            if proxy.open_connections > LINKS
        ]

    def streams(self) -> list[str]:
        """Streams on the broker's disk besides those of the definitions."""
        wanted = sum(one["arguments"].get("x-queue-type") == "stream" for one in self.definitions["queues"])
        folders = [path for path in self.layout.broker.rglob("stream/*") if path.is_dir()]
        return [path.name for path in folders] if len(folders) > wanted else []

    def words(self) -> dict[str, list[str]]:
        """The services' last log lines."""
        last = {}
        for party in PARTIES:
            with contextlib.suppress(OSError):
                last[party] = self.layout.log_of(party).read_text(errors="replace").splitlines()[-12:]
        return last

    @staticmethod
    def wait(condition: Any, within: float, what: str) -> None:
        """Until it holds; KonsilError where it does not in time."""
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                raise KonsilError(f"not within {within:.0f} s: {what}", where="chaos")
            time.sleep(0.05)

    def close(self) -> list[str]:
        """End everything; what outlived it."""
        for pid in self.broker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for child in self.services.values():
            child.send_signal(signal.SIGCONT)
        self.children.end_all(patience=8.0)
        self.node.kill_node()
        for proxy in self.proxies.values():
            proxy.close()
        self.services.clear()
        end = time.monotonic() + 10.0
        while (left := self.strays()) and time.monotonic() < end:
            time.sleep(0.1)
        return left


def arm(world: World, fault: Fault) -> None:
    """Have the party (or its trainer) die at a step."""
    path = world.crash_file(fault.party)
    beside = path.with_suffix(".armed")
    beside.write_text(f"{fault.step} {fault.count}")
    beside.replace(path)


def plain(fault: Fault) -> str:
    """For the report."""
    what = {"at": round(fault.at, 2), "lasts": round(fault.lasts, 2)}
    if fault.kind == "step":
        what = {"count": fault.count, "lasts": round(fault.lasts, 2)}
    elif fault.kind in ("line-corrupt", "line-cut-after"):
        what["bytes"] = fault.bytes
    return f"{fault.name} of {fault.party} {json.dumps(what)}"
