"""What one login may ask of a broker is bounded, and whoever is beside it notices nothing (real RabbitMQ)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pika
import pytest
from brokerage import Collector, numbered, send
from brokers import PATIENCE, VHOST, RealBroker, eventually
from pika import exceptions

from deploy.broker.topology import CONNECTIONS, MESSAGE_BYTES, SPARE_CHANNELS
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.ground.errors import BrokerUnreachable, KonsilError

pytestmark = pytest.mark.broker
KEY = "hello.site-b.none"


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Connections of a hostile login, closed at the end."""
    with ExitStack() as stack:
        yield stack


def connect(broker: RealBroker, crowd: ExitStack, user: str = "site-a") -> pika.BlockingConnection:
    parameters = pika.ConnectionParameters(
        broker.node.host, broker.node.port, VHOST, pika.PlainCredentials(user, f"pw-{user}")
    )
    connection = pika.BlockingConnection(parameters)
    crowd.callback(lambda: connection.close() if connection.is_open else None)
    return connection


def test_of_three_hundred_connections_of_one_login_few_are_let_in_and_the_others_work(
    clean_broker: RealBroker, crowd: ExitStack
) -> None:
    got = Collector().of(clean_broker.bus("coordinator"), "uplink")
    honest = clean_broker.bus("site-b")
    send(honest, range(3), KEY)
    for _ in range(CONNECTIONS):
        connect(clean_broker, crowd)
    for _ in range(301 - CONNECTIONS):
        with pytest.raises(exceptions.AMQPConnectionError, match="limit"):
            connect(clean_broker, crowd)
    send(honest, range(3, 6), KEY)
    send(clean_broker.bus("site-c"), range(6, 8), "hello.site-c.none")
    eventually(lambda: got.bodies == numbered(range(8)), what="what the others said")


def test_a_login_that_has_all_its_connections_is_told_so_and_gets_in_once_one_is_free(
    clean_broker: RealBroker, crowd: ExitStack
) -> None:
    held = [connect(clean_broker, crowd) for _ in range(CONNECTIONS)]
    bus = RabbitBus(clean_broker.address("site-a"), "site-a")
    try:
        with pytest.raises(BrokerUnreachable, match="as many connections of 'site-a' as it allows"):
            bus.connect(1.0)
    finally:
        bus.close()
    for connection in held:
        connection.close()
    assert clean_broker.bus("site-a").publish("hello.site-a.none", b"x").wait(PATIENCE)


def test_one_login_gets_so_many_channels_over_all_its_connections(clean_broker: RealBroker, crowd: ExitStack) -> None:
    honest = clean_broker.bus("site-b")
    opened = 0
    for _ in range(4):
        connection = connect(clean_broker, crowd)
        try:
            for _ in range(SPARE_CHANNELS):
                connection.channel()
                opened += 1
        except exceptions.AMQPError:
            break
    assert opened == 2 * SPARE_CHANNELS
    assert honest.publish(KEY, b"x").wait(PATIENCE)


def test_one_connection_gets_fewer_channels_than_the_two_thousand_of_a_bare_broker(
    clean_broker: RealBroker, crowd: ExitStack
) -> None:
    tuned = connect(clean_broker, crowd)._impl.params.channel_max
    sites = sum(queue["name"].startswith("update.") for queue in clean_broker.definitions["queues"])
    assert tuned == 256 + sites


def test_a_message_of_more_than_so_many_bytes_closes_its_channel_and_nobody_elses(
    clean_broker: RealBroker, crowd: ExitStack
) -> None:
    got = Collector().of(clean_broker.bus("coordinator"), "uplink")
    honest, other = clean_broker.bus("site-b"), clean_broker.bus("site-a")
    channel = connect(clean_broker, crowd).channel()
    channel.confirm_delivery()
    with pytest.raises(exceptions.ChannelClosedByBroker, match="message size"):
        channel.basic_publish("konsil.site-a", "hello.site-a.none", bytes(MESSAGE_BYTES + 1))
    large = other.publish("hello.site-a.none", bytes(MESSAGE_BYTES + 1))
    assert other.publish("hello.site-a.none", b"after").wait(PATIENCE)
    with pytest.raises(KonsilError, match=str(MESSAGE_BYTES + 1)):
        large.wait(PATIENCE)
    assert honest.publish(KEY, b"beside").wait(PATIENCE)
    eventually(lambda: set(got.bodies) == {b"after", b"beside"}, what="what the others said")
