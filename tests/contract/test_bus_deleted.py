"""Each queue that a party relies on, deleted alone by somebody's hand: told at once, and read again when it is back."""

from __future__ import annotations

import pytest
from brokerage import Brokerage, Collector
from brokers import PATIENCE, RealBroker, eventually

from messages.bus.amqp import consumer
from messages.bus.base import BusState, Notice, Start

NEEDED = (
    ("coordinator", "uplink", "site-a", "hello.site-a.none"),
    ("coordinator", "update.site-a", "site-a", "update-chunk.site-a.exp"),
    ("coordinator", "inbox.coordinator", "site-a", "chunks-wanted.site-a.exp.coordinator"),
    ("site-a", "downlink", "coordinator", "round-start.coordinator.exp"),
    ("site-a", "global", "coordinator", "global-chunk.coordinator.exp"),
    ("site-a", "inbox.site-a", "coordinator", "receipt.coordinator.none.site-a"),
    ("dr-a", "inbox.dr-a", "coordinator", "refused.coordinator.exp.dr-a"),
    ("auditor", "audit", "coordinator", "journal-entry.coordinator.exp"),
)
"""Who reads it and cannot do without, who writes into it, and with which key."""

SPARED = (
    ("downlink", "round-start.coordinator.exp"),
    ("audit", "journal-entry.coordinator.exp"),
    ("models", "model-chunk.coordinator.exp"),
    ("progress", "alive.coordinator.none"),
)
"""What the coordinator only reads back, or listens to."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is not there is looked for more often than services do."""
    monkeypatch.setattr(consumer, "REFUSED_RETRY", 0.3)


def states(notices: list[Notice]) -> list[BusState]:
    return [one.state for one in notices]


@pytest.mark.broker
@pytest.mark.parametrize(("reader", "queue", "writer", "key"), NEEDED)
def test_a_queue_that_is_deleted_alone_is_told_to_its_reader_and_read_again_when_it_is_back(
    clean_broker: RealBroker, reader: str, queue: str, writer: str, key: str
) -> None:
    notices: list[Notice] = []
    sender = clean_broker.bus(writer)
    collector = Collector()
    got = collector.of(clean_broker.bus(reader, on_notice=notices.append), queue, position=collector.stored)
    sender.publish(key, b"before").wait(PATIENCE)
    eventually(lambda: got.bodies == [b"before"], what="the first message")
    clean_broker.delete(queue)
    eventually(lambda: BusState.REFUSED in states(notices), what="the reader to be told")
    told = next(one.detail for one in notices if one.state is BusState.REFUSED)
    assert queue in told
    clean_broker.wipe(queue)
    eventually(lambda: BusState.RENEWED in states(notices), what="the reader to be told that it is another one")
    refused = states(notices).index(BusState.REFUSED)
    eventually(lambda: BusState.CONNECTED in states(notices)[refused:], what="the reader to be told that nothing lacks")
    sender.publish(key, b"after").wait(PATIENCE)
    eventually(lambda: got.bodies == [b"before", b"after"], what="the message")


@pytest.mark.broker
@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize(("queue", "key"), SPARED)
def test_a_queue_that_its_reader_can_live_without_is_told_missing_and_holds_nothing_up(
    clean_broker: RealBroker, queue: str, key: str, read_before: bool
) -> None:
    notices: list[Notice] = []
    bus = clean_broker.bus("coordinator", on_notice=notices.append)
    collector = Collector()
    got = collector.of(bus, queue, position=collector.stored, start=Start.NEXT, vital=False)
    if read_before:
        bus.publish(key, b"before").wait(PATIENCE)
        eventually(lambda: got.bodies == [b"before"], what="the first message")
    clean_broker.delete(queue)
    eventually(lambda: Notice(BusState.MISSING, queue) in notices, what="the reader to be told")
    clean_broker.wipe(queue)
    eventually(lambda: Notice(BusState.RENEWED, queue) in notices, what="the reader to be told that it is another one")
    eventually(lambda: Notice(BusState.FOUND, queue) in notices, what="the reader to be told that it is there")
    assert BusState.REFUSED not in states(notices)
    assert states(notices).count(BusState.RENEWED) == 1
    bus.publish(key, b"after").wait(PATIENCE)
    eventually(lambda: got.bodies[-1:] == [b"after"], what="the message")


@pytest.mark.broker
def test_a_queue_that_is_not_there_at_the_start_is_no_error_to_who_can_live_without_it(
    clean_broker: RealBroker,
) -> None:
    clean_broker.delete("audit")
    notices: list[Notice] = []
    try:
        bus = clean_broker.bus("coordinator", on_notice=notices.append)
        got = Collector().of(bus, "audit", start=Start.NEXT, vital=False)
        eventually(lambda: Notice(BusState.MISSING, "audit") in notices, what="the reader to be told")
    finally:
        clean_broker.wipe("audit")
    eventually(lambda: Notice(BusState.RENEWED, "audit") in notices, what="the reader to be told")
    bus.publish("journal-entry.coordinator.exp", b"entry").wait(PATIENCE)
    eventually(lambda: got.bodies == [b"entry"], what="the message")


def test_a_queue_that_may_not_be_read_is_told_missing_to_who_can_live_without_it(brokerage: Brokerage) -> None:
    notices: list[Notice] = []
    bus = brokerage.bus("site-a", on_notice=notices.append)
    Collector().of(bus, "uplink", vital=False)
    eventually(lambda: Notice(BusState.MISSING, "uplink") in notices, what="the reader to be told")
    got = Collector().of(bus, "downlink")
    brokerage.bus("coordinator").publish("round-start.coordinator.exp", b"round").wait(PATIENCE)
    eventually(lambda: got.bodies == [b"round"], what="what may be read")
