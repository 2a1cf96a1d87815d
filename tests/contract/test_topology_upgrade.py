"""From one exchange for all to one for each: parties of both kinds on one real broker, until the old one is closed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from alarms import rabbitmqctl
from brokerage import Collector
from brokers import PARTIES, PATIENCE, VHOST, RealBroker, consortium_definitions, eventually, need_broker, with_admin
from pika import exceptions

from deploy.broker import roster
from deploy.broker.definitions import Definitions
from deploy.broker.node import PrivateNode
from messages import names
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Start

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]
TOPOLOGY_1 = Path(__file__).parent / "data" / "definitions-topology-1.json"
"""As 0.1 rendered them for the parties of these tests; kept, not to be written again."""


class PartyOf01:
    """What a 0.1 does on the wire: it publishes to the exchange that all share."""

    def __init__(self, broker: RealBroker, name: str) -> None:
        self._name = name
        credentials = pika.PlainCredentials(name, f"pw-{name}")
        node = broker.node
        self._connection = pika.BlockingConnection(pika.ConnectionParameters(node.host, node.port, VHOST, credentials))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def say(self, key: str, body: bytes) -> None:
        properties = pika.BasicProperties(user_id=self._name)
        self._channel.basic_publish(names.OLD_EXCHANGE, key, body, properties, mandatory=True)

    def close(self) -> None:
        with contextlib.suppress(exceptions.AMQPError):
            self._connection.close()


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[RealBroker]:
    """A node as 0.1 made it."""
    need_broker()
    definitions = with_admin(json.loads(TOPOLOGY_1.read_text()))
    node = PrivateNode(tmp_path / "node", definitions=definitions)
    node.start()
    broker = RealBroker(node, definitions)
    try:
        yield broker
    finally:
        broker.close_buses()
        node.kill_node()


def load(broker: RealBroker, definitions: Definitions) -> None:
    """What an operator does to a running broker."""
    file = broker.node.directory / "new.json"
    file.write_text(json.dumps(with_admin(definitions)))
    rabbitmqctl(broker.node, "import_definitions", str(file))


def close_connections(broker: RealBroker) -> None:
    """RabbitMQ keeps what a channel was allowed once."""
    rabbitmqctl(broker.node, "close_all_connections", "--vhost", VHOST, "topology")


def test_parties_of_both_kinds_work_together_until_the_old_exchange_is_closed(upgraded: RealBroker) -> None:
    coordinator, new = upgraded.bus("coordinator"), upgraded.bus("site-a")
    uplink = Collector().of(coordinator, "uplink")
    down = Collector().of(new, "downlink")

    def all_speak(word: bytes, old: PartyOf01) -> None:
        assert new.publish("hello.site-a.none", b"new " + word).wait(PATIENCE)
        assert coordinator.publish("round-start.coordinator.exp", b"all " + word).wait(PATIENCE)
        old.say("hello.site-b.none", b"old " + word)
        eventually(lambda: {b"new " + word, b"old " + word} <= set(uplink.bodies), what=f"what the sites said {word!r}")
        eventually(lambda: b"all " + word in down.bodies, what=f"what the coordinator said {word!r}")

    with contextlib.closing(PartyOf01(upgraded, "site-b")) as old:
        all_speak(b"under topology 1", old)
        load(upgraded, consortium_definitions(old_exchange=True))
        all_speak(b"on open connections", old)
        close_connections(upgraded)
    with contextlib.closing(PartyOf01(upgraded, "site-b")) as old:
        all_speak(b"under both", old)
        load(upgraded, consortium_definitions())
        close_connections(upgraded)
    with (
        contextlib.closing(PartyOf01(upgraded, "site-b")) as old,
        pytest.raises(exceptions.ChannelClosedByBroker, match="access to exchange 'konsil'"),
    ):
        old.say("hello.site-b.none", b"too late")
    assert new.publish("hello.site-a.none", b"new under topology 2").wait(PATIENCE)
    assert upgraded.bus("site-b").publish("hello.site-b.none", b"upgraded").wait(PATIENCE)
    eventually(lambda: {b"new under topology 2", b"upgraded"} <= set(uplink.bodies), what="those that were upgraded")
    assert b"too late" not in uplink.bodies


def run(*words: str) -> dict[str, Any]:
    """`konsil broker` as a process of its own, as which a node outlives it."""
    command = [sys.executable, "-m", "deploy.cli", "broker", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_private_node_of_0_1_comes_up_with_both_and_closes_the_old_one_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_broker()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    home = tmp_path / "konsil" / "broker"
    old = json.loads(TOPOLOGY_1.read_text())
    before = PrivateNode(home, definitions=old)
    before.start()
    before.stop()
    roster.write_roster(home, roster.Roster(VHOST, PARTIES))
    broker = RealBroker(PrivateNode(home, detached=True), old)
    try:
        assert "0.1" in run("up")["old_exchange"]
        uplink = Collector().of(broker.bus("coordinator"), "uplink")
        with contextlib.closing(PartyOf01(broker, "site-b")) as of_01:
            of_01.say("hello.site-b.none", b"old")
        assert broker.bus("site-a").publish("hello.site-a.none", b"new").wait(PATIENCE)
        eventually(lambda: set(uplink.bodies) == {b"old", b"new"}, what="all that was said")
        broker.close_buses()

        run("down")
        assert "old_exchange" not in run("up", "--no-old-exchange", "--site", "site-d")
        uplink = Collector().of(broker.bus("coordinator"), "uplink", start=Start.NEXT)
        with (
            contextlib.closing(PartyOf01(broker, "site-b")) as of_01,
            pytest.raises(exceptions.ChannelClosedByBroker, match="access to exchange 'konsil'"),
        ):
            of_01.say("hello.site-b.none", b"too late")
        made = roster.read_roster(home)
        assert made is not None
        late = RabbitBus(broker.address("site-d", password=made.passwords["site-d"]), "site-d")
        assert late.publish("hello.site-d.none", b"added").wait(PATIENCE)
        late.close()
        eventually(lambda: uplink.bodies == [b"added"], what="what the added site said")
    finally:
        broker.close_buses()
        broker.node.kill_node()
