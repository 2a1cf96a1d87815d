"""What every bus keeps, whatever carries it (interface: messages.bus.base)."""

from __future__ import annotations

import hashlib
import threading

import pytest
from brokerage import BROKER_ENDS, Brokerage, Collector, numbered, send
from brokers import PATIENCE, eventually

from messages.bus.base import MOST_MESSAGES, Bus, Position, Start, digest_of
from messages.ground.errors import BrokerUnreachable, LoginRefused, NameTaken, RequestError

DOWN = "round-start.coordinator.exp"


def test_both_are_buses(brokerage: Brokerage) -> None:
    assert isinstance(brokerage.bus("coordinator"), Bus)


def test_order_holds_per_publisher(brokerage: Brokerage) -> None:
    got = Collector().of(brokerage.bus("site-a"), "downlink")
    send(brokerage.bus("coordinator"), range(500))
    eventually(lambda: len(got.deliveries) == 500)
    assert got.bodies == numbered(range(500))
    assert [one.offset for one in got.deliveries] == list(range(500))


def test_a_delivery_tells_queue_key_and_the_validated_user(brokerage: Brokerage) -> None:
    got = Collector().of(brokerage.bus("coordinator"), "uplink")
    brokerage.bus("site-a").publish("hello.site-a.none", b"x")
    eventually(lambda: got.deliveries)
    one = got.deliveries[0]
    assert (one.queue, one.key, one.user, one.body) == ("uplink", "hello.site-a.none", "site-a", b"x")


def test_each_publish_is_confirmed(brokerage: Brokerage) -> None:
    confirm = brokerage.bus("coordinator").publish(DOWN, b"x")
    assert confirm.wait(PATIENCE)
    assert confirm.done


def test_a_key_that_no_queue_takes_is_told(brokerage: Brokerage) -> None:
    confirm = brokerage.bus("coordinator").publish("receipt.coordinator.exp.nobody", b"x")
    with pytest.raises(RequestError, match="no queue takes"):
        confirm.wait(PATIENCE)


def test_two_consumers_of_a_stream_each_get_everything(brokerage: Brokerage) -> None:
    first = Collector().of(brokerage.bus("site-a"), "downlink")
    second = Collector().of(brokerage.bus("site-b"), "downlink")
    send(brokerage.bus("coordinator"), range(50))
    eventually(lambda: len(first.deliveries) == len(second.deliveries) == 50)
    assert first.bodies == second.bodies == numbered(range(50))


def test_start_next_skips_what_was_there(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    send(bus, range(5))
    got = Collector().of(brokerage.bus("site-a"), "downlink", start=Start.NEXT)
    send(bus, range(5, 8))
    eventually(lambda: len(got.deliveries) >= 3)
    assert got.bodies == numbered(range(5, 8))


def test_a_stored_position_resumes_after_the_stored_message(brokerage: Brokerage) -> None:
    send(brokerage.bus("coordinator"), range(20))
    got = Collector(position=Position(11, digest_of(b"11")))
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    eventually(lambda: len(got.deliveries) >= 8)
    assert got.bodies == numbered(range(12, 20))


def test_a_position_at_the_end_waits_for_the_next_message(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    send(bus, range(5))
    got = Collector(position=Position(4, digest_of(b"4")))
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    send(bus, range(5, 7))
    eventually(lambda: len(got.deliveries) >= 2)
    assert got.bodies == numbered(range(5, 7))


def test_a_stream_that_was_wiped_is_read_from_first(brokerage: Brokerage) -> None:
    brokerage.wipe("downlink")
    send(brokerage.bus("coordinator"), range(3))
    got = Collector(position=Position(100, digest_of(b"100")))
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    eventually(lambda: len(got.deliveries) >= 3)
    assert got.bodies == numbered(range(3))


def test_a_wiped_stream_that_has_grown_past_the_position_is_read_from_first(brokerage: Brokerage) -> None:
    send(brokerage.bus("coordinator"), range(10))
    got = Collector(position=Position(4, digest_of(b"another stream's message")))
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    eventually(lambda: len(got.deliveries) >= 10)
    assert got.bodies == numbered(range(10))


def test_a_consumer_follows_a_stream_that_is_wiped_under_it(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    got = Collector()
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    send(bus, range(10))
    eventually(lambda: len(got.deliveries) == 10)
    brokerage.wipe("downlink")
    send(bus, range(20, 23))
    eventually(lambda: got.bodies[10:] == numbered(range(20, 23)))


@pytest.mark.parametrize(("queue", "key"), [("downlink", DOWN), ("inbox.site-a", f"{DOWN}.site-a")])
def test_credit_is_honoured(brokerage: Brokerage, queue: str, key: str) -> None:
    bus = brokerage.bus("coordinator")
    for number in range(40):  # one by one: RabbitMQ hands out what a stream took in one write as a whole
        send(bus, range(number, number + 1), key)
    site = brokerage.bus("site-a")
    got = Collector(ack=False).of(site, queue, credit=7)
    eventually(lambda: len(got.deliveries) >= 7)
    probe = Collector().of(site, "progress")  # on the same connection: what was on its way comes before
    site.publish("alive.site-a.none", b"probe")
    eventually(lambda: probe.deliveries)
    assert len(got.deliveries) == 7
    got.ack_all()
    eventually(lambda: len(got.deliveries) == 40)


def test_an_inbox_message_comes_again_until_it_is_acknowledged(brokerage: Brokerage) -> None:
    sender = brokerage.bus("coordinator")
    send(sender, range(3), "receipt.coordinator.exp.site-a")
    first = brokerage.bus("site-a")
    unacked = Collector(ack=False).of(first, "inbox.site-a", exclusive=True)
    eventually(lambda: len(unacked.deliveries) == 3)
    unacked.subscription.ack(unacked.deliveries[0])
    first.publish("hello.site-a.none", b"the ack before this one has reached the broker").wait(PATIENCE)
    unacked.subscription.cancel()
    first.close()
    again = Collector().of(brokerage.bus("site-a", lock_wait=PATIENCE), "inbox.site-a", exclusive=True)
    eventually(lambda: again.bodies[-2:] == numbered(range(1, 3)), what="those without an acknowledgement")


def test_a_second_exclusive_consumer_is_a_twin(brokerage: Brokerage) -> None:
    Collector().of(brokerage.bus("site-a"), "inbox.site-a", exclusive=True)
    twin = brokerage.bus("site-a", lock_wait=0.5)
    with pytest.raises(NameTaken, match=r"inbox\.site-a"):
        Collector().of(twin, "inbox.site-a", exclusive=True)


def test_the_name_is_free_again_after_its_holder_closed(brokerage: Brokerage) -> None:
    holder = brokerage.bus("site-a")
    Collector().of(holder, "inbox.site-a", exclusive=True)
    heir = brokerage.bus("site-a", lock_wait=PATIENCE)
    waiting = threading.Thread(target=lambda: Collector().of(heir, "inbox.site-a", exclusive=True))
    waiting.start()
    holder.close()
    waiting.join(PATIENCE)
    with pytest.raises(NameTaken):
        Collector().of(brokerage.bus("site-a", lock_wait=0.2), "inbox.site-a", exclusive=True)


@pytest.mark.parametrize(
    ("party", "key"),
    [
        ("site-a", "hello.site-b.none"),
        ("site-a", "round-start.coordinator.exp"),
        ("dr-a", "weights-ready.dr-a.exp"),
        ("dr-a", "experiment-start.coordinator.exp"),
        ("auditor", "hello.auditor.none"),
    ],
)
def test_nobody_writes_what_is_not_theirs(brokerage: Brokerage, party: str, key: str) -> None:
    bus = brokerage.bus(party)
    with pytest.raises(LoginRefused):
        bus.publish(key, b"x").wait(PATIENCE)


def test_after_a_refused_publish_the_others_go_on(brokerage: Brokerage) -> None:
    got = Collector().of(brokerage.bus("coordinator"), "uplink")
    bus = brokerage.bus("site-a")
    before = bus.publish("hello.site-a.none", b"before")
    refused = bus.publish("hello.site-b.none", b"refused")
    after = bus.publish("hello.site-a.none", b"after")
    assert before.wait(PATIENCE)
    assert after.wait(PATIENCE)
    with pytest.raises(LoginRefused):
        refused.wait(PATIENCE)
    eventually(lambda: b"after" in got.bodies)
    assert b"refused" not in got.bodies


def test_a_message_in_anothers_name_is_told_though_the_same_kind_in_ones_own_was_taken(brokerage: Brokerage) -> None:
    bus = brokerage.bus("site-a")
    assert bus.publish("hello.site-a.none", b"before").wait(PATIENCE)
    refused = bus.publish("hello.site-b.none", b"refused")
    after = bus.publish("hello.site-a.none", b"after")
    with pytest.raises(LoginRefused):
        refused.wait(PATIENCE)
    assert after.wait(PATIENCE)


@pytest.mark.parametrize(
    ("party", "queue"),
    [("site-a", "inbox.site-b"), ("site-a", "uplink"), ("dr-a", "update.site-a"), ("auditor", "downlink")],
)
def test_nobody_reads_what_is_not_theirs(brokerage: Brokerage, party: str, queue: str) -> None:
    with pytest.raises(LoginRefused):
        Collector().of(brokerage.bus(party), queue)


def test_models_travel_in_large_chunks_through_a_small_window(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator", window=4 * 2**20)
    got = Collector().of(brokerage.bus("site-a"), "global", credit=4)
    chunks = [bytes([number]) * 2**20 for number in range(50)]
    for chunk in chunks:
        bus.publish("global-chunk.coordinator.exp", chunk)
    assert bus.flush(PATIENCE)
    eventually(lambda: len(got.deliveries) == 50)
    assert [hashlib.sha256(one).digest() for one in got.bodies] == [hashlib.sha256(one).digest() for one in chunks]


@BROKER_ENDS
def test_nothing_is_lost_when_the_broker_breaks_down_while_publishing(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    got = Collector()
    got.of(brokerage.bus("site-a"), "downlink", position=got.stored)
    send(bus, range(200))
    stop = threading.Event()
    sent = [200]

    def publish() -> None:
        while not stop.is_set():
            bus.publish(DOWN, b"%d" % sent[0])
            sent[0] += 1
            stop.wait(0.001)

    publisher = threading.Thread(target=publish)
    publisher.start()
    brokerage.interrupt()
    eventually(lambda: sent[0] > 400)
    stop.set()
    publisher.join()
    assert bus.flush(PATIENCE)
    wanted = numbered(range(sent[0]))
    eventually(lambda: set(got.bodies) >= set(wanted), what="every message")
    firsts = list(dict.fromkeys(got.bodies))  # duplicates may come: what counts is each one's first time
    assert firsts == wanted


@BROKER_ENDS
def test_an_unacknowledged_inbox_message_comes_again_after_a_break(brokerage: Brokerage) -> None:
    got = Collector(ack=False).of(brokerage.bus("site-a"), "inbox.site-a", exclusive=True)
    brokerage.bus("coordinator").publish("receipt.coordinator.exp.site-a", b"x").wait(PATIENCE)
    eventually(lambda: len(got.deliveries) == 1)
    brokerage.interrupt()
    eventually(lambda: len(got.deliveries) >= 2)
    old, new = got.deliveries[0], got.deliveries[-1]
    assert old.body == new.body
    assert old.epoch < new.epoch


def test_a_cancelled_subscription_delivers_nothing_more(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    site = brokerage.bus("site-a")
    cancelled = Collector().of(site, "downlink")
    send(bus, range(3))
    eventually(lambda: len(cancelled.deliveries) == 3)
    cancelled.subscription.cancel()
    cancelled.subscription.cancel()
    other = Collector().of(site, "downlink", start=Start.FIRST)
    send(bus, range(3, 6))
    eventually(lambda: len(other.deliveries) == 6)
    assert len(cancelled.deliveries) == 3


def test_a_queue_that_does_not_exist_is_told(brokerage: Brokerage) -> None:
    brokerage_bus = brokerage.bus("site-a")
    with pytest.raises((RequestError, LoginRefused), match="nowhere"):
        Collector().of(brokerage_bus, "nowhere")


def test_publish_and_subscribe_after_close_are_refused(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    bus.close()
    bus.close()
    with pytest.raises(BrokerUnreachable):
        bus.publish(DOWN, b"x")
    with pytest.raises(BrokerUnreachable):
        Collector().of(bus, "uplink")


@BROKER_ENDS
def test_while_the_broker_is_away_a_full_window_blocks_and_pending_tells(brokerage: Brokerage) -> None:
    got = Collector().of(brokerage.bus("site-a"), "downlink")
    bus = brokerage.bus("coordinator", window=1000)
    assert bus.publish(DOWN, bytes(600)).wait(PATIENCE)
    eventually(lambda: bus.count_pending().messages == 0)
    brokerage.stop()
    bus.publish(DOWN, (b"in ", memoryview(b"pieces")))
    bus.publish(DOWN, bytes(900))
    through = threading.Event()

    def one_more() -> None:
        bus.publish(DOWN, bytes(200))
        through.set()

    publisher = threading.Thread(target=one_more)
    publisher.start()
    assert not through.wait(0.3)
    waiting = bus.count_pending()
    assert (waiting.messages, waiting.bytes) == (2, 909)
    assert waiting.waited > 0.2
    brokerage.start()
    publisher.join(PATIENCE)
    assert through.is_set()
    assert bus.flush(PATIENCE)
    eventually(lambda: len(set(got.bodies)) >= 4)  # what was on its way when the broker went may come twice
    assert list(dict.fromkeys(got.bodies)) == [bytes(600), b"in pieces", bytes(900), bytes(200)]
    assert bus.count_pending().messages == 0


@BROKER_ENDS
def test_while_the_broker_is_away_no_more_than_so_many_messages_wait_in_memory(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator")
    send(bus, range(3))
    brokerage.stop()
    key, many = "round-start.coordinator.exp", MOST_MESSAGES + 500
    sent = threading.Thread(target=lambda: [bus.publish(key, b"%d" % number) for number in range(3, many)])
    sent.start()
    eventually(lambda: bus.count_pending().messages >= MOST_MESSAGES, what="all that the bus takes")
    sent.join(0.2)
    assert sent.is_alive()
    assert bus.count_pending().messages == MOST_MESSAGES
    brokerage.start()
    sent.join(PATIENCE)
    assert bus.flush(PATIENCE)
    got = Collector().of(brokerage.bus("site-a"), "downlink")
    eventually(lambda: len(set(got.bodies)) == many)
    assert list(dict.fromkeys(got.bodies)) == numbered(range(many))


def test_a_message_larger_than_the_window_may_fly_alone(brokerage: Brokerage) -> None:
    bus = brokerage.bus("coordinator", window=1000)
    for _ in range(3):
        bus.publish(DOWN, bytes(5000))
    assert bus.flush(PATIENCE)
