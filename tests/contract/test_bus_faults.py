"""The bus over lines that break, stall, crawl and lie, and a broker that takes nothing: through a real RabbitMQ."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator

import pytest
from alarms import disk_alarm, rabbitmqctl
from brokerage import Collector
from brokers import PATIENCE, RealBroker, eventually
from proxy import FaultyProxy

from messages import names
from messages.bus.amqp.link import Backoff
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Bus, BusState, Notice
from messages.ground.errors import KonsilError, MalformedMessage
from messages.reasons import Reason
from messages.tensors.transfer import ChunkHeader, TransferKey, decode_chunk, encode_chunk

pytestmark = pytest.mark.broker

KIB, MIB = 2**10, 2**20
UP, DOWN = "update-chunk.site-a.exp", "global-chunk.coordinator.exp"
SLACK = 200 * KIB
"""Handshakes, frame headers, confirms and acknowledgements of a test."""


class Line:
    """A party behind a proxy, with what its bus noticed."""

    def __init__(self, broker: RealBroker) -> None:
        self.proxy = FaultyProxy(("127.0.0.1", broker.node.port)).start()
        self.notices: list[Notice] = []
        self._broker = broker
        self._buses: list[RabbitBus] = []

    def bus(self, party: str, **options: object) -> RabbitBus:
        address = self._broker.address(party).model_copy(update={"port": self.proxy.port})
        given: dict[str, object] = {"backoff": Backoff(first=0.2, most=0.5), "verify_within": 2.0, "idle": 5.0}
        given |= {"chunks_verify_within": 10.0, "on_notice": self.notices.append} | options
        bus = RabbitBus(address, party, **given)  # type: ignore[arg-type]
        self._buses.append(bus)
        bus.connect(PATIENCE)
        return bus

    def states(self) -> list[BusState]:
        return [one.state for one in list(self.notices)]

    def close(self) -> None:
        self.proxy.close()  # first: nothing is left to be flushed through a broken line
        for bus in self._buses:
            bus.close()


@pytest.fixture
def line(clean_broker: RealBroker) -> Iterator[Line]:
    made = Line(clean_broker)
    yield made
    made.close()


def chunk(index: int, size: int = 256 * KIB, of: int = 32) -> bytes:
    data = hashlib.shake_128(index.to_bytes(4, "big")).digest(size)
    header = ChunkHeader(TransferKey("exp", 1, "site-a"), index, size, of * size, hashlib.sha256(data).digest())
    return encode_chunk(header, data)


def publish_all(bus: Bus, key: str, bodies: list[bytes]) -> None:
    for body in bodies:
        bus.publish(key, body)
    assert bus.flush(PATIENCE)


@pytest.mark.parametrize("fin", [False, True], ids=["reset", "closed"])
def test_a_line_cut_while_sending_goes_on_at_what_was_not_confirmed(
    clean_broker: RealBroker, line: Line, fin: bool
) -> None:
    got = Collector().of(clean_broker.bus("coordinator"), "update.site-a")
    bodies = [chunk(index) for index in range(32)]
    bus = line.bus("site-a", window=MIB)
    line.proxy.cut_after(5 * MIB + 1234, "up", fin=fin)
    publish_all(bus, UP, bodies)
    eventually(lambda: set(got.bodies) == set(bodies))
    assert BusState.LOST in line.states()
    assert line.proxy.counts.up <= sum(map(len, bodies)) + MIB + SLACK
    firsts = list(dict.fromkeys(got.bodies))
    assert firsts == bodies


def test_a_line_cut_while_receiving_goes_on_at_what_was_not_stored(clean_broker: RealBroker, line: Line) -> None:
    bodies = [chunk(index) for index in range(32)]
    out = clean_broker.bus("coordinator")
    for (
        body
    ) in bodies:  # one by one: RabbitMQ hands out what a stream took in one write as a whole, whatever the credit
        publish_all(out, DOWN, [body])
    got = Collector()
    bus = line.bus("site-a")
    line.proxy.cut_after(5 * MIB + 1234, "down")
    got.of(bus, names.GLOBAL, position=got.stored, credit=4)
    eventually(lambda: set(got.bodies) == set(bodies))
    assert line.proxy.counts.cut == 1
    # once more: the message at the stored position, and what had been on its way
    assert line.proxy.counts.down <= sum(map(len, bodies)) + 5 * len(bodies[0]) + SLACK
    assert list(dict.fromkeys(got.bodies)) == bodies


def test_pieces_of_a_body_arrive_as_one(clean_broker: RealBroker) -> None:
    got = Collector().of(clean_broker.bus("coordinator"), "update.site-a")
    data = os.urandom(3 * MIB + 17)
    view = memoryview(data)
    bus = clean_broker.bus("site-a")
    pieces: list[tuple[bytes | memoryview, ...]] = [
        (data[:10], view[10:]),
        (b"", view[:1], b"", view[1:]),
        (b"small", memoryview(b" body")),
        (b"",),
        (),
    ]
    for one in pieces:
        bus.publish(UP, one)
    assert bus.flush(PATIENCE)
    eventually(lambda: len(got.deliveries) == len(pieces))
    assert got.bodies == [data, data, b"small body", b"", b""]


def test_a_half_open_line_is_noticed_by_both_directions_and_nothing_is_lost(
    clean_broker: RealBroker, line: Line
) -> None:
    bus = line.bus("site-a")
    got = Collector().of(clean_broker.bus("coordinator"), "update.site-a")
    heard = Collector()
    heard.of(bus, names.GLOBAL, position=heard.stored)
    publish_all(bus, UP, [b"before"])
    line.proxy.half_open()
    bus.publish(UP, b"into the void")
    clean_broker.bus("coordinator").publish(DOWN, b"unheard")
    # heartbeat of 5 s: 10 s of silence are an end (pika's check), and three connections may be told one by one
    eventually(lambda: sum(one is BusState.LOST for one in line.states()) >= 3)
    line.proxy.heal()
    assert bus.flush(PATIENCE)
    eventually(lambda: b"into the void" in got.bodies)
    eventually(lambda: b"unheard" in heard.bodies)


def test_a_crawling_line_lives_and_carries_one_chunk_at_a_time(clean_broker: RealBroker, line: Line) -> None:
    got = Collector().of(clean_broker.bus("coordinator"), "update.site-a")
    bus = line.bus("site-a")
    bodies = [chunk(index) for index in range(6)]
    line.proxy.throttle(1_000_000)
    widest = 0
    done = threading.Event()

    def send() -> None:
        publish_all(bus, UP, bodies)
        done.set()

    threading.Thread(target=send, daemon=True).start()

    def watched() -> bool:
        nonlocal widest
        widest = max(widest, bus.count_pending().bytes)
        return done.is_set()

    # 1.5 MiB at 1 Mbit/s take 12.6 s: longer than two heartbeats
    eventually(watched)
    eventually(lambda: got.bodies == bodies)
    assert BusState.LOST not in line.states()
    assert 0 < widest <= 2 * len(bodies[0])
    assert bus.count_pending().messages == 0


@pytest.mark.parametrize("at", [0, 3, 1_000_000], ids=["a frame's type", "a frame's size", "a chunk's data"])
def test_a_byte_that_changed_on_the_way_ends_the_line_or_is_caught_by_the_digest(
    clean_broker: RealBroker, line: Line, at: int
) -> None:
    bodies = [chunk(index) for index in range(32)]
    out = clean_broker.bus("coordinator")
    publish_all(out, DOWN, bodies)
    got = Collector()
    bus = line.bus("site-a")
    bus.subscribe(names.PROGRESS, lambda _delivery: None)
    whole: dict[int, bytes] = {}
    spoilt: list[MalformedMessage] = []

    def sort() -> bool:
        for delivery in got.deliveries[len(whole) + len(spoilt) :]:
            try:
                header, data = decode_chunk(delivery.body)
            except MalformedMessage as error:
                spoilt.append(error)
            else:
                whole.setdefault(header.index, bytes(data))
        return len(whole) + len(spoilt) >= len(bodies)

    line.proxy.corrupt(at, "down")
    got.of(bus, names.GLOBAL, position=got.stored)
    eventually(lambda: len(set(got.bodies)) >= len(bodies))
    sort()
    if at > 1000:
        assert [error.reason for error in spoilt] == [Reason.WRONG_DIGEST]
        missing = set(range(32)) - set(whole)
        assert len(missing) == 1
        publish_all(out, DOWN, [bodies[index] for index in missing])  # what `chunks-wanted` asks for
        eventually(lambda: bodies[missing.copy().pop()] in got.bodies)
    else:
        assert not spoilt
        assert BusState.LOST in line.states()
    assert set(bodies) <= set(got.bodies)


def test_a_queue_that_takes_no_more_answers_nack_and_gets_it_again(clean_broker: RealBroker) -> None:
    admin = clean_broker.admin()
    channel = admin.channel()
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("narrow", arguments=arguments)
    channel.queue_bind("narrow", names.exchange_of("coordinator"), "receipt.coordinator.*.nobody")
    try:
        bus = clean_broker.bus("coordinator")
        key = "receipt.coordinator.exp.nobody"
        assert bus.publish(key, b"first").wait(PATIENCE)
        # RabbitMQ lets the queue grow by one before it says no
        rest = [bus.publish(key, b"%d" % number) for number in range(4)]
        assert not bus.flush(1.5)
        assert bus.count_pending().messages > 0
        taken: list[bytes] = []

        def drained() -> bool:
            frame, _properties, body = channel.basic_get("narrow", auto_ack=True)
            taken.extend([body] if frame else [])
            return all(one.done for one in rest)

        eventually(drained)
        while (found := channel.basic_get("narrow", auto_ack=True))[0]:
            taken.append(found[2])
        assert sorted(taken) == [b"0", b"1", b"2", b"3", b"first"]
    finally:
        channel.queue_delete("narrow")
        admin.close()


def test_a_message_larger_than_the_broker_takes_is_told_and_the_others_go_on(clean_broker: RealBroker) -> None:
    node = clean_broker.node
    # RabbitMQ 4 reads it once, at its start, into a persistent term; 3.10 has no such term
    change = (
        "{{ok, Was}} = application:get_env(rabbit, max_message_size),"
        " application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0}), Was."
    )
    was = rabbitmqctl(node, "eval", change.format(500_000)).strip()
    try:
        bus = clean_broker.bus("site-a")
        before = bus.publish(UP, b"before")
        large = bus.publish(UP, (b"header", memoryview(bytes(600_000))))
        after = bus.publish(UP, b"after")
        with pytest.raises(KonsilError, match="600006"):
            large.wait(PATIENCE)
        assert before.wait(PATIENCE)
        assert after.wait(PATIENCE)
    finally:
        rabbitmqctl(node, "eval", change.format(was))


def test_an_alarm_stops_publishers_visibly_and_costs_nothing(clean_broker: RealBroker) -> None:
    patient: list[Notice] = []
    restless: list[Notice] = []
    got = Collector().of(clean_broker.bus("site-b"), "downlink")
    bodies = [b"%d" % number for number in range(20)]
    with disk_alarm(clean_broker.node):
        bus = clean_broker.bus("coordinator", on_notice=patient.append, window=MIB)
        other = clean_broker.bus("site-a", on_notice=restless.append, blocked_timeout=2.0)
        for body in bodies:
            bus.publish("round-start.coordinator.exp", body)
        other.publish("hello.site-a.none", b"hello")
        eventually(lambda: [one for one in patient if one.state is BusState.BLOCKED])
        waiting = bus.count_pending()
        assert (waiting.messages, waiting.blocked) == (20, True)
        assert waiting.bytes == sum(map(len, bodies))
        # an alarm that lasts: the line is made anew, blocked again, and what waits still waits
        eventually(lambda: sum(one.state is BusState.BLOCKED for one in restless) >= 2)
        assert BusState.LOST in [one.state for one in restless]
        assert other.count_pending().messages == 1
        assert got.deliveries == []
    eventually(lambda: [one for one in patient if one.state is BusState.UNBLOCKED])
    assert bus.flush(PATIENCE)
    assert other.flush(PATIENCE)
    eventually(lambda: got.bodies == bodies)
    assert not bus.count_pending().blocked
