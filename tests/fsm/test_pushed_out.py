"""What others write into the coordinator's own streams may push its word out of them: it notices, and says it again."""

from __future__ import annotations

import pytest
from astray import plant_message
from brokers import eventually
from coordinator_kit import plain
from coordinator_rig import Consortium, running

from coordinator.record.journal import open_readonly
from coordinator.wire.reading_back import AGAIN_EVERY, OTHERS_AT_LEAST, OTHERS_SHARE, ReadingBack
from messages import kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker
from messages.chain import decode_entry
from messages.names import AUDIT, COORDINATOR, MODELS

MIB = 2**20


@pytest.fixture
def complete(consortium: Consortium) -> Consortium:
    """A consortium whose experiment is over."""
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("model-ready")
    eventually(lambda: logged(consortium.broker) == journaled(consortium), what="the whole event log")
    return consortium


def logged(broker: MemoryBroker) -> list[int]:
    """Numbers of the entries that the event log in the broker holds, those said twice once."""
    with broker.changed:
        held = list(broker.streams[AUDIT].messages)
    return sorted({decode_entry(one.body).number for one in held if one.user == COORDINATOR})


def journaled(consortium: Consortium) -> list[int]:
    return [entry.number for entry in open_readonly(consortium.folder)]


def push(broker: MemoryBroker, queue: str, mib: int) -> None:
    """A site writes so much into a stream of the coordinator's."""
    for _ in range(mib):
        plant_message(broker, queue, "hello.site-b.none", bytes(MIB), "site-b")


def test_a_log_that_a_site_pushed_out_of_the_broker_is_published_again_and_the_site_is_named(
    complete: Consortium, capsys: pytest.CaptureFixture[str]
) -> None:
    complete.broker.streams[AUDIT].max_bytes = 4 * MIB
    push(complete.broker, AUDIT, 5)
    assert logged(complete.broker) == []
    push(complete.broker, AUDIT, 15)
    eventually(lambda: logged(complete.broker) == journaled(complete), what="the whole event log, again")
    eventually(lambda: "users=['site-b']" in capsys.readouterr().out, what="the name of who did it")


def test_a_model_that_a_site_pushed_out_of_the_broker_is_sent_again(complete: Consortium) -> None:
    def chunks() -> set[bytes]:
        with complete.broker.changed:
            held = list(complete.broker.streams[MODELS].messages)
        return {one.body for one in held if one.user == COORDINATOR and one.key.startswith("model-chunk")}

    before = chunks()
    assert before
    complete.broker.streams[MODELS].max_bytes = 4 * MIB
    push(complete.broker, MODELS, 20)
    eventually(lambda: chunks() == before, what="the model, again")


def test_what_others_wrote_before_a_restart_counts_after_it(complete: Consortium) -> None:
    first = complete.broker.streams[AUDIT].end
    push(complete.broker, AUDIT, 9)
    journal = running(complete).journal

    def is_read() -> bool:
        at = journal.position_of(AUDIT)
        return at is not None and at.offset >= first + 8

    eventually(is_read, what="that much to be read")
    complete.stop()
    push(complete.broker, AUDIT, 9)
    end = complete.broker.streams[AUDIT].end
    complete.start()

    def again() -> list[int]:
        with complete.broker.changed:
            behind = list(complete.broker.streams[AUDIT].messages)[end - complete.broker.streams[AUDIT].first :]
        return sorted({decode_entry(one.body).number for one in behind})

    eventually(lambda: again() == journaled(complete), what="the whole event log, behind what others wrote")


def delivery(size: int, user: str | None, offset: int) -> Delivery:
    return Delivery(AUDIT, "hello.site-b.none", bytes(size), user, offset, offset)


def listen(kept: dict[str, bytes] | None = None) -> ReadingBack:
    kept = {} if kept is None else kept
    return ReadingBack(lambda _queue: None, kept.get)


def test_a_large_log_is_said_again_only_for_a_third_of_its_bytes() -> None:
    reading = listen()
    whole = 30 * OTHERS_AT_LEAST
    reading.take_delivery(delivery(whole, COORDINATOR, 0))
    reading.take_delivery(delivery(whole // OTHERS_SHARE - 1, "site-b", 1))
    assert reading.list_pushed_out(0.0) == {}
    reading.take_delivery(delivery(1, None, 2))
    assert reading.list_pushed_out(0.0) == {AUDIT: ["nobody", "site-b"]}
    reading.note_told(AUDIT, 0.0)
    reading.take_delivery(delivery(whole, "site-b", 3))
    assert reading.list_pushed_out(AGAIN_EVERY - 1) == {}, "not so soon again: what is said again must come through"
    assert reading.list_pushed_out(AGAIN_EVERY) == {AUDIT: ["site-b"]}


def test_a_stream_that_dropped_what_was_not_read_yet_has_dropped_what_lay_before_if_it_was_others_that_wrote() -> None:
    reading = listen()
    reading.take_delivery(delivery(1, COORDINATOR, 0))
    reading.take_delivery(delivery(1, COORDINATOR, 9))
    assert reading.list_pushed_out(0.0) == {}
    reading.take_delivery(delivery(1, "site-b", 10))
    assert reading.list_pushed_out(0.0) == {AUDIT: ["site-b"]}


def test_the_same_message_that_is_read_again_counts_once() -> None:
    reading = listen()
    for _ in range(3):
        reading.take_delivery(delivery(OTHERS_AT_LEAST - 1, "site-b", 7))
    assert reading.list_pushed_out(0.0) == {}


def test_what_was_counted_is_kept_and_nothing_is_kept_where_nobody_else_writes() -> None:
    kept: dict[str, bytes] = {}
    reading = listen(kept)
    reading.take_delivery(delivery(10, COORDINATOR, 0))
    assert reading.unsaved_shares() == {}
    reading.take_delivery(delivery(OTHERS_AT_LEAST, "site-b", 1))
    kept |= reading.unsaved_shares()
    assert reading.unsaved_shares() == {}
    assert listen(kept).list_pushed_out(0.0) == {AUDIT: ["site-b"]}
    kept = dict.fromkeys(kept, b"rubbish")
    assert listen(kept).list_pushed_out(0.0) == {}
