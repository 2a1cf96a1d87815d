"""What only a real broker shows: logins, lost brokers, and that a broken bus heals."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from brokerage import Collector, numbered, send
from brokers import PATIENCE, RealBroker, eventually

from messages.bus.amqp.link import Backoff
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import BusState, Notice
from messages.ground.errors import BrokerUnreachable, ConfigError, LoginRefused
from messages.ground.settings import BrokerAddress


@pytest.mark.broker
def test_a_wrong_password_is_told_at_once(broker: RealBroker) -> None:
    with pytest.raises(LoginRefused, match="refuses the login 'site-a'"):
        RabbitBus(broker.address("site-a", password="wrong"), "site-a").connect()


@pytest.mark.broker
def test_a_consortium_that_does_not_exist_is_told(broker: RealBroker) -> None:
    with pytest.raises(LoginRefused, match="nowhere"):
        RabbitBus(broker.address("site-a", vhost="nowhere"), "site-a").connect()


def test_no_broker_at_all_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = BrokerAddress(port=unused.getsockname()[1])
        notices: list[Notice] = []
        bus = RabbitBus(address, "site-a", backoff=Backoff(first=0.1), on_notice=notices.append)
        bus.publish("hello.site-a.none", b"x")
        eventually(lambda: notices, what="a first try")
        with pytest.raises(BrokerUnreachable, match="Connection refused"):
            bus.connect(0.0)


def test_a_certificate_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read certificate"):
        RabbitBus(BrokerAddress(ca=tmp_path / "ca.pem"), "site-a")


@pytest.mark.broker
def test_a_lost_broker_is_shown_and_what_was_published_meanwhile_arrives(clean_broker: RealBroker) -> None:
    notices: list[Notice] = []
    bus = clean_broker.bus("coordinator", on_notice=notices.append)
    send(bus, range(3))
    clean_broker.node.stop()
    eventually(lambda: any(one.state is BusState.LOST and one.retry_in for one in notices))
    waiting = [bus.publish("round-start.coordinator.exp", b"%d" % number) for number in range(3, 6)]
    assert not any(one.done for one in waiting)
    assert not bus.flush(0.1)
    clean_broker.node.start()
    assert bus.flush(PATIENCE)
    got = Collector().of(clean_broker.bus("site-a"), "downlink")
    eventually(lambda: len(got.deliveries) >= 6)
    assert got.bodies == numbered(range(6))
    eventually(lambda: notices[-1].state is BusState.CONNECTED, what="word that it is back")


@pytest.mark.broker
def test_a_full_window_blocks_and_closing_frees_who_waits(clean_broker: RealBroker) -> None:
    bus = clean_broker.bus("coordinator", window=2**20)
    clean_broker.node.stop()
    lost = bus.publish("round-start.coordinator.exp", bytes(2**20))
    raised: list[BaseException] = []
    started = threading.Event()

    def blocked() -> None:
        started.set()
        try:
            bus.publish("round-start.coordinator.exp", b"one more")
        except BrokerUnreachable as error:
            raised.append(error)

    publisher = threading.Thread(target=blocked)
    publisher.start()
    assert started.wait(PATIENCE)
    bus.close()
    publisher.join(PATIENCE)
    assert raised
    with pytest.raises(BrokerUnreachable):
        lost.wait(PATIENCE)
