"""A whole consortium as real processes on a private broker, for tests that kill parts of it.

Training is not the point here: the sites run the null trainer, whose updates depend on seed, site and round alone.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from brokers import need_broker
from gated_trainer import Gate

from deploy.broker.node import PrivateNode
from deploy.cli import requests
from deploy.demo import consortium as consortia
from deploy.demo import experiments
from deploy.demo.layout import DemoLayout, prepare_layout
from deploy.demo.processes import Child, Children
from deploy.session import profile as profiles
from deploy.session.connection import BrokerSession
from deploy.session.history import HISTORY, HistoryReader
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_event
from messages import kinds, names
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Start
from messages.experiment import Experiment
from messages.ground import settings

DEADLINE = 240.0
"""Seconds for anything that is to come: on a machine that is busy with other work, too."""
SITES = ("site-a", "site-b", "site-c")


def experiment(identity: str, **sections: Any) -> Experiment:
    """A small experiment over the three sites; `sections` replace keys of the demo's own."""
    plain = experiments.glioma_demo(rounds=2, seed=7, sites=SITES)
    plain["id"] = identity
    plain["net"] = {"name": "Rehearsal", "tensors": 10, "kilobytes": 40}  # a UNet's weights would import torch
    for section, content in sections.items():
        plain[section] = {**plain.get(section, {}), **content} if isinstance(content, Mapping) else content
    return settings.parse_settings(plain, Experiment, identity)


def connected(profile: profiles.Profile) -> RabbitBus:
    """As a researcher's command connects, and more patiently."""
    bus = RabbitBus(profile.broker_address(), profile.name)
    bus.connect(DEADLINE)
    return bus


class Rig:
    """Broker, coordinator and three sites, each of which can be ended and started again.

    What a test does in the middle of a round it does while `gate` holds that round at a site.

    Args:
        folder: everything is kept below it.
        seconds: how long the null trainer takes for a round.
        tls: everybody talks TLS to the broker.
    """

    def __init__(self, folder: Path, *, seconds: float = 0.2, tls: bool = False) -> None:
        self.layout: DemoLayout = prepare_layout(folder / "out")
        self.consortium = consortia.Consortium.invent_logins(self.layout, SITES)
        self.node = PrivateNode(self.layout.broker, definitions=self.consortium.make_definitions(), tls=tls)
        self._tls = tls
        self.children = Children()
        self.services: dict[str, Child] = {}
        self.session: BrokerSession | None = None
        self.gate = Gate(self.layout.run / "gate")
        self._trainer = (*self.gate.trainer, "--cases", "40", "--seconds", str(seconds))
        self._stories: dict[str, ExperimentStory] = {}
        self._reader = HistoryReader()

    def start_broker(self) -> None:
        self.node.start()
        self.consortium.write_coordinator(*self._broker())
        for site in SITES:
            self._write_site(site)
        profile = profiles.load_profile(self.consortium.write_profile(*self._broker()))
        self.session = BrokerSession(connected(profile), profile)
        self.session.listen_to(names.PROGRESS, start=Start.NEXT)
        self.session.listen_to(*HISTORY)

    def _broker(self) -> tuple[int, Path | None]:
        """Port, and the broker's authority where it speaks TLS."""
        return (self.node.tls_port, self.node.ca) if self._tls else (self.node.port, None)

    def _write_site(self, site: str) -> None:
        data = self.layout.data / site
        data.mkdir(exist_ok=True)
        source = {"source": "brats", "path": data, "labels": {"1": "NCR", "2": "ED", "3": "ET"}}
        self.consortium.write_site(
            site, *self._broker(), dataset="glioma", source=source, threads=1, gpus=[], trainer=self._trainer
        )

    def start(
        self, party: str, *, crash_after: int | None = None, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start the coordinator or a site; `environment` is added to this process's."""
        module = "coordinator" if party == names.COORDINATOR else "site_agent"
        command = [sys.executable, "-m", module, "--config", str(self.consortium.config_of(party))]
        more = dict(environment or {})
        if crash_after is not None:
            more["KONSIL_CRASH_AFTER_ENTRY"] = str(crash_after)
        self.services[party] = self.children.start_child(party, command, self.layout.log_of(party), environment=more)
        return self.services[party]

    def start_with(self, name: str, module: str, config: Path) -> Child:
        """Start one more service with a configuration of its own."""
        command = [sys.executable, "-m", module, "--config", str(config)]
        return self.children.start_child(name, command, self.layout.log_of(name))

    def start_all(self) -> None:
        self.start_broker()
        for party in (names.COORDINATOR, *SITES):
            self.start(party)

    def kill(self, party: str) -> None:
        """SIGKILL to the service alone, as the kernel or an operator would."""
        self.services[party].send_signal(signal.SIGKILL)
        self.services[party].process.wait()

    def publish(self, one: Experiment) -> None:
        """experiment-start, and the coordinator's acceptance; refused: RequestError."""
        profile = profiles.load_profile(self.layout.profile)
        with BrokerSession(connected(profile), profile) as session:
            requests.start_experiment(session, one, DEADLINE, lambda _text: None)

    def publish_quietly(self, one: Experiment) -> None:
        """experiment-start alone: whether anybody takes it shows later."""
        assert self.session is not None
        self.session.publish_event("experiment-start", kinds.ExperimentStart(experiment=one.as_plain()), one.id)

    def wait(
        self, identity: str, until: Callable[[ExperimentStory], bool], what: str, deadline: float = DEADLINE
    ) -> ExperimentStory:
        """Read events until a condition holds of the story; the condition is asked after each message."""
        assert self.session is not None
        end = time.monotonic() + deadline
        while not until(story := self.story(identity)):
            if time.monotonic() > end:
                pytest.fail(f"not within {deadline:.0f} s: {what}; {self.describe(story)}")
            heard = self.session.next_heard(0.2)
            if heard is None:
                continue
            if heard.delivery.queue == names.PROGRESS:
                if heard.event is not None:
                    for known, one in self._stories.items():
                        self._stories[known] = tell_event(one, heard.event, time.time())
            else:
                for event in self._reader.events_of(heard):
                    known = event.experiment
                    self._stories[known] = tell_event(self.story(known), event)
        return story

    def story(self, identity: str) -> ExperimentStory:
        return self._stories.setdefault(identity, ExperimentStory(identity))

    def complete(self, identity: str, deadline: float = DEADLINE) -> ExperimentStory:
        """The story once the experiment is complete; fails where it ends otherwise."""
        story = self.wait(identity, lambda story: story.over, "the experiment ends", deadline)
        assert story.phase == "complete", self.describe(story)
        return story

    def describe(self, story: ExperimentStory) -> str:
        """For a failed assertion: where it was, what the services said last."""
        last = "; ".join(f"{m.who}: {m.what}" for m in story.moments[-6:])
        logs = []
        for party in self.services:
            text = self.layout.log_of(party).read_text(errors="replace").splitlines()
            logs.append(f"--- {party}\n" + "\n".join(text[-8:]))
        return f"{story.phase} ({story.reason}), round {len(story.rounds)}: {last}\n" + "\n".join(logs)

    def close(self) -> None:
        if self.session is not None:
            self.session.bus.close()
        self.children.end_all(patience=0)
        self.node.kill_node()


AnyRig = TypeVar("AnyRig", bound=Rig)


@contextlib.contextmanager
def running(folder: Path, kind: type[AnyRig] = Rig, *, seconds: float = 0.2, tls: bool = False) -> Iterator[AnyRig]:
    """A rig with everything started, ended with the context."""
    need_broker()
    rig = kind(folder, seconds=seconds, tls=tls)
    try:
        rig.start_all()
        yield rig
    finally:
        rig.close()
