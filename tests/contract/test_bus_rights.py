"""Rights that are taken away while they are used, and given back; queues that are made anew."""

from __future__ import annotations

import pytest
from alarms import rabbitmqctl
from brokerage import Brokerage, Collector
from brokers import PATIENCE, VHOST, RealBroker, eventually

from messages.bus.base import BusState, Notice, Position, digest_of

SITE = "site-a"


def give(broker: RealBroker, **changes: str) -> None:
    """The site's permissions as the definitions have them, with some changed."""
    (plain,) = [one for one in broker.definitions["permissions"] if one["user"] == SITE]
    rights = plain | changes
    rabbitmqctl(broker.node, "set_permissions", "-p", VHOST, SITE, "^$", rights["write"], rights["read"])


def cut_off(broker: RealBroker) -> None:
    """RabbitMQ keeps what a channel was allowed once: end the connections."""
    for line in rabbitmqctl(broker.node, "list_connections", "-q", "pid", "user").splitlines():
        pid, user = line.split("\t")
        if user == SITE:
            rabbitmqctl(broker.node, "close_connection", pid, "by a test")


@pytest.mark.broker
def test_a_right_to_publish_that_is_taken_away_is_told_and_what_was_published_waits_for_it(
    clean_broker: RealBroker,
) -> None:
    notices: list[Notice] = []
    got = Collector().of(clean_broker.bus("coordinator"), "uplink")
    bus = clean_broker.bus(SITE, on_notice=notices.append)
    bus.publish("hello.site-a.none", b"before").wait(PATIENCE)
    try:
        give(clean_broker, write="^$")
        cut_off(clean_broker)
        confirm = bus.publish("hello.site-a.none", b"meanwhile")
        eventually(lambda: [one for one in notices if one.state is BusState.REFUSED], what="the refusal to be told")
        assert not confirm.done
    finally:
        give(clean_broker)
    assert confirm.wait(PATIENCE)
    eventually(lambda: notices[-1].state is BusState.CONNECTED, what="the right to be back")
    eventually(lambda: got.bodies[-1:] == [b"meanwhile"], what="the message")


@pytest.mark.broker
def test_a_right_to_read_that_is_taken_away_is_told_and_so_is_that_it_is_back(clean_broker: RealBroker) -> None:
    notices: list[Notice] = []
    bus = clean_broker.bus(SITE, on_notice=notices.append)
    got = Collector().of(bus, "downlink")
    try:
        give(clean_broker, read=r"^inbox\.site-a$")
        cut_off(clean_broker)
        eventually(lambda: [one for one in notices if one.state is BusState.REFUSED], what="the refusal to be told")
    finally:
        give(clean_broker)
    eventually(lambda: notices[-1].state is BusState.CONNECTED, what="the right to be back")
    assert sum(one.state is BusState.REFUSED for one in notices) <= 1 + 3, (
        "more than once, and with each link that came"
    )
    clean_broker.bus("coordinator").publish("round-start.coordinator.exp", b"after")
    eventually(lambda: got.bodies == [b"after"], what="the message")


def test_a_stream_that_is_not_the_one_that_was_read_before_is_told(brokerage: Brokerage) -> None:
    notices: list[Notice] = []
    brokerage.bus("coordinator").publish("round-start.coordinator.exp", b"new").wait(PATIENCE)
    position = Position(7, digest_of(b"old"))
    bus = brokerage.bus(SITE, on_notice=notices.append)
    bus.subscribe("downlink", lambda _delivery: None, position=lambda: position)
    eventually(lambda: [one for one in notices if one.state is BusState.RENEWED], what="the news")
    assert next(one.detail for one in notices if one.state is BusState.RENEWED) == "downlink"


@pytest.mark.broker
def test_an_inbox_that_is_deleted_and_declared_again_is_told_and_read(clean_broker: RealBroker) -> None:
    notices: list[Notice] = []
    bus = clean_broker.bus(SITE, on_notice=notices.append)
    got = Collector().of(bus, "inbox.site-a", exclusive=True)
    clean_broker.wipe("inbox.site-a")
    eventually(lambda: [one for one in notices if one.state is BusState.RENEWED], what="the news")
    clean_broker.bus("coordinator").publish("receipt.coordinator.none.site-a", b"after").wait(PATIENCE)
    eventually(lambda: got.bodies == [b"after"], what="the message")
