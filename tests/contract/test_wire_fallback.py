"""Where pika's internals are not as expected, the connection is plain pika: slower, and right."""

from __future__ import annotations

import os

import pytest
from brokers import PATIENCE, RealBroker, eventually

from messages.bus.amqp import wire
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Delivery

pytestmark = pytest.mark.broker


def exchange(broker: RealBroker, body: bytes) -> tuple[list[bytes], list[bool]]:
    """Send a body in two pieces through the bus; returns what came, and whether each connection was direct."""
    got: list[Delivery] = []
    reader, writer = broker.bus("coordinator"), broker.bus("site-a")
    reader.subscribe("update.site-a", got.append)
    writer.publish("update-chunk.site-a.exp", (body[:100], memoryview(body)[100:]))
    assert writer.flush(PATIENCE)
    eventually(lambda: got)
    return [one.body for one in got], [_direct(bus) for bus in (reader, writer)]


def _direct(bus: RabbitBus) -> bool:
    return all(link.connection.direct for link in bus._links.values())


def test_the_short_way_is_used_with_the_pika_that_is_installed(clean_broker: RealBroker) -> None:
    body = os.urandom(700_000)
    assert exchange(clean_broker, body) == ([body], [True, True])


@pytest.mark.parametrize("part", ["connection", "transport"])
def test_without_one_of_the_internals_it_is_plain_pika(
    clean_broker: RealBroker, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setitem(wire.REQUIRED, part, (*wire.REQUIRED[part], "_gone_in_pika_2"))
    body = os.urandom(700_000)
    assert exchange(clean_broker, body) == ([body], [False, False])
