"""A consortium of real processes for measuring: private broker, coordinator, agents with null trainers."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import memory, phases
from deploy.broker.keeper import list_descendants
from deploy.broker.node import PrivateNode
from deploy.broker.topology import StreamSizes
from deploy.cli import requests
from deploy.demo import experiments
from deploy.demo.consortium import Consortium
from deploy.demo.layout import DemoLayout, prepare_layout
from deploy.demo.processes import Child, Children
from deploy.session import profile as profiles
from deploy.session.connection import BrokerSession, connect_rabbit
from messages import kinds, names
from messages.bus.base import Start
from messages.experiment import Experiment
from messages.ground import settings
from messages.ground.errors import WorkFailed
from site_agent.desk import control

Say = Callable[[str], None]
START_WITHIN, ENROL_WITHIN = 90.0, 180.0


def site_names(count: int) -> tuple[str, ...]:
    """site-001, site-002, …"""
    return tuple(f"site-{number:03}" for number in range(1, count + 1))


def rehearsal(
    identity: str, sites: tuple[str, ...], kilobytes: int, rounds: int, *, codec: str = "float32", keep: int = 2
) -> Experiment:
    """An experiment that moves a model of so many kilobytes (of 1000 bytes) and trains nothing."""
    plain = experiments.glioma_demo(rounds=rounds, seed=1, sites=sites)
    plain |= {
        "id": identity,
        "purpose": "benchmark",
        "net": {"name": "Rehearsal", "tensors": 20, "kilobytes": kilobytes},
        "evaluation": {"every": 100_000, "select_by": "last"},
        "keep_updates": keep,
    }
    if codec != "float32":
        plain["wire"] = {"codec": codec}
    return settings.parse_settings(plain, Experiment, identity)


class Bench:
    """Everything started and enrolled, ready to run experiments.

    Args:
        model_bytes: the largest model that will travel; the broker's streams are sized for a few rounds of it.
        say: progress lines.
    """

    def __init__(self, folder: Path, sites: int, model_bytes: int, *, tls: bool, say: Say) -> None:
        self.sites = site_names(sites)
        self.layout: DemoLayout = prepare_layout(folder)
        segment = 16 * 2**20
        room = max(64 * 2**20, 3 * model_bytes) + 2 * segment
        sizes = StreamSizes(
            events=64 * 2**20,
            audit=256 * 2**20,
            model_chunks=room,
            update_chunks=room,
            segment=segment,
            small_segment=2**20,
        )
        self.consortium = Consortium.invent_logins(self.layout, self.sites, sizes)
        more: dict[str, Any] = {"tls": True} if tls else {}
        self.node = PrivateNode(self.layout.broker, definitions=self.consortium.make_definitions(), **more)
        self.children = Children()
        self.services: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        """Of the metrics endpoints."""
        self._tls, self._say = tls, say
        self.session: BrokerSession | None = None

    def start(self) -> None:
        """Start broker, coordinator and agents; returns once every agent is connected."""
        self._say("starting broker")
        self.node.start()
        broker: tuple[Any, ...] = (self.node.tls_port, self.node.ca) if self._tls else (self.node.port,)
        self.consortium.write_coordinator(*broker)
        profile = profiles.load_profile(self.consortium.write_profile(*broker))
        trainer = (sys.executable, "-m", "site_agent.training.null", "--cases", "40", "--seconds", "0")
        self._start(names.COORDINATOR, "coordinator")
        self._say(f"starting {len(self.sites)} agents")
        for site in self.sites:
            data = self.layout.data / site
            data.mkdir()
            self.consortium.write_site(
                site,
                *broker,
                dataset="glioma",
                source={"source": "brats", "path": data, "labels": {"1": "NCR", "2": "ED", "3": "ET"}},
                threads=1,
                gpus=[],
                trainer=trainer,
            )
            self._start(site, "site_agent")
        self.session = BrokerSession(connect_rabbit(profile), profile)
        self.session.listen_to(names.DOWNLINK, start=Start.NEXT)
        self._await(lambda: all(self._connected(site) for site in self.sites), "every agent is connected")

    def _start(self, party: str, module: str) -> None:
        config = self.consortium.config_of(party)
        self.ports[party] = phases.free_port()
        config.write_text(config.read_text() + f'\n[metrics]\nlisten = "127.0.0.1:{self.ports[party]}"\n')
        command = [sys.executable, "-m", module, "--config", str(config)]
        self.services[party] = self.children.start_child(party, command, self.layout.log_of(party))

    def _connected(self, site: str) -> bool:
        with contextlib.suppress(Exception):
            return str(self.status(site)["broker"]) == "connected"
        return False

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + START_WITHIN
        while not condition():
            for service in self.services.values():
                service.check_alive()
            if time.monotonic() > end:
                raise WorkFailed(f"not within {START_WITHIN:.0f} s: {what}", where=str(self.layout.logs))
            time.sleep(0.1)

    def status(self, site: str) -> dict[str, Any]:
        """What the agent says of itself."""
        return control.ask_agent(self.layout.site_folder(site), {"do": "status"})

    def pids(self) -> Mapping[str, int]:
        """Process ids of coordinator and agents by name."""
        return {name: child.process.pid for name, child in self.services.items()}

    def broker_cpu(self) -> float:
        """CPU seconds of the broker's processes so far."""
        keeper = self.node.pid
        return 0.0 if keeper is None else sum(memory.cpu_seconds(pid) for pid in list_descendants(keeper))

    def run(self, experiment: Experiment, within: float, ended: Callable[[int], None] | None = None) -> list[float]:
        """Run an experiment to its end; the coordinator's clock at each round's end, seconds.

        Args:
            ended: called after each round with how many are complete.

        Raises:
            WorkFailed: it did not complete in time.
        """
        assert self.session is not None
        requests.start_experiment(self.session, experiment, 60.0, lambda _text: None)
        ends: list[float] = []
        for heard in self.session.hear_messages(within):
            event = heard.event
            for service in self.services.values():
                service.check_alive()
            if event is None or event.experiment != experiment.id:
                continue
            if event.kind == "round-complete":
                ends.append(event.time)
                self._say(f"round {len(ends)} of {experiment.rounds.count}")
                if ended is not None:
                    ended(len(ends))
            elif isinstance(event.body, kinds.ExperimentComplete):
                return ends
            elif event.kind in ("experiment-failed", "experiment-refused", "experiment-aborted"):
                break
        raise WorkFailed(f"the experiment {experiment.id} did not complete", where=str(self.layout.logs))

    def close(self) -> None:
        """End everything that was started."""
        if self.session is not None:
            self.session.bus.close()
        self.children.end_all(patience=10.0)
        self.node.stop()


@contextlib.contextmanager
def running(
    sites: int,
    model_bytes: int,
    *,
    tls: bool,
    say: Say,
    keep: Path | None = None,
    before: Callable[[Bench], None] = lambda _bench: None,
) -> Iterator[Bench]:
    """A consortium in a folder of its own, ended and removed with the context (`keep`: a folder that stays).

    `before`: called before anything starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="konsil-bench-")) if keep is None else keep
    bench = Bench(folder, sites, model_bytes, tls=tls, say=say)
    try:
        before(bench)
        bench.start()
        yield bench
    finally:
        bench.close()
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
