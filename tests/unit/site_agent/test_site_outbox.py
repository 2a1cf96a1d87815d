"""A site's outbox while the broker is away: it waits on the disk, and the bus is given so much of it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import site_consortium as script
from brokers import eventually

from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import decode_event
from messages.ground.virtual.clock import VirtualClock
from messages.kinds import Alive, RoundAccepted
from site_agent.core.effects import Say
from site_agent.disk.spool import Spool
from site_agent.wire import outbox
from site_agent.wire.outbox import Outbox

MANY = 3000


class Site:
    """A voice, its spool, and what arrives of it."""

    def __init__(self, folder: Path) -> None:
        self.broker: MemoryBroker = script.broker()
        self.clock = VirtualClock()
        self.spool = Spool(folder)
        self.bus = MemoryBus(self.broker, "site-a")
        self.voice = Outbox(self.bus, self.spool, script.CONSORTIUM, "site-a", self.clock)

    def say(self, numbers: range) -> None:
        with self.spool.transaction():
            for number in numbers:
                self.voice.say_event(Say("round-accepted", "exp-1", number, RoundAccepted(), 1), float(number))

    def arrived(self, kind: str = "round-accepted") -> list[int]:
        events = [decode_event(one.body) for one in list(self.broker.streams["uplink"].messages)]
        return [event.round for event in events if event.kind == kind]

    def turn(self) -> bool:
        """One turn of the main loop; whether there is anything left to hand over."""
        self.voice.publish_waiting()
        return self.bus.count_pending().messages == 0 and self.voice._reached >= MANY


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path / "state")
    yield one
    one.bus.close()
    one.spool.close()


def test_thousands_of_events_wait_on_the_disk_and_arrive_once_and_in_order(site: Site) -> None:
    site.broker.stop()
    site.say(range(1, MANY + 1))
    for _turn in range(50):  # the notice that the broker is gone has not come yet
        site.voice.publish_waiting()
        assert site.bus.count_pending().messages <= outbox.MOST_HANDED
        assert len(site.voice._handed) <= outbox.MOST_HANDED
    assert site.spool.count_waiting() == MANY
    site.broker.start()
    eventually(site.turn, what="all is handed over")
    assert site.arrived() == list(range(1, MANY + 1))
    assert site.spool.count_waiting() == MANY  # without a receipt it stays


def test_after_a_reconnect_all_without_a_receipt_is_said_again_and_then_hello(site: Site) -> None:
    site.say(range(1, MANY + 1))
    eventually(site.turn, what="all is handed over")
    for identity in [one.id for one in site.spool.list_waiting(limit=1000)]:
        site.voice.take_receipt(identity, 0.0)
    site.broker.stop()
    site.voice.send_hello()
    for _turn in range(20):  # coming and going, nothing is handed over twice
        site.voice.send_hello()
        assert site.bus.count_pending().messages <= outbox.MOST_HANDED
    site.broker.start()
    eventually(lambda: site.voice.publish_waiting() or site.arrived("hello"), what="hello")
    assert site.arrived()[MANY:] == list(range(1001, MANY + 1))
    assert len(site.arrived("hello")) == 1
    assert decode_event(site.broker.streams["uplink"].messages[-1].body).kind == "hello"


def test_an_event_without_a_receipt_is_published_again_after_its_time_and_not_before(
    site: Site,
) -> None:
    def after(seconds: float) -> list[int]:
        site.clock.advance(seconds)
        before = len(site.arrived())
        for _turn in range(5):
            site.voice.publish_waiting()
        return site.arrived()[before:]

    site.say(range(1, 301))
    assert after(0) == list(range(1, 301))
    site.say(range(301, 303))
    assert after(20) == [301, 302]
    site.voice.take_receipt(site.spool.list_waiting(limit=1)[0].id, 0.0)
    assert after(9.9) == []
    assert after(0.2) == list(range(2, 301))
    assert after(19) == []
    assert after(1) == [301, 302]
    assert after(9.9) == []
    assert after(0.2) == list(range(2, 301))


def test_the_place_of_an_event_that_has_gone_is_not_given_again(site: Site) -> None:
    site.say(range(1, 3))
    site.voice.publish_waiting()
    for one in site.spool.list_waiting():
        site.voice.take_receipt(one.id, 0.0)
    site.say(range(3, 5))
    site.voice.publish_waiting()
    assert site.arrived() == [1, 2, 3, 4]


def test_an_agent_that_starts_with_waiting_events_publishes_new_ones_once_those_have_gone(
    site: Site, tmp_path: Path
) -> None:
    site.say(range(1, 4))
    site.spool.close()
    site.spool = Spool(tmp_path / "state")
    site.voice = Outbox(site.bus, site.spool, script.CONSORTIUM, "site-a", site.clock)
    site.voice.publish_waiting()
    for waiting in site.spool.list_waiting():
        site.voice.take_receipt(waiting.id, 1.0)
    site.say(range(4, 5))
    site.voice.publish_waiting()
    eventually(lambda: site.arrived() == [1, 2, 3, 4], what="the new event, at once")


def test_large_events_are_handed_over_by_their_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_HANDED_BYTES", 1000)
    site.broker.stop()
    site.say(range(1, 20))
    site.voice.publish_waiting()
    assert 0 < site.bus.count_pending().bytes <= 1000
    site.broker.start()
    eventually(lambda: site.voice.publish_waiting() or len(site.arrived()) == 19, what="all")


def test_live_messages_are_dropped_where_many_wait(site: Site) -> None:
    site.broker.stop()
    for _number in range(outbox.MOST_LIVE + 100):
        site.voice.send_live("alive", Alive(state="idle"))
    assert site.bus.count_pending().messages == outbox.MOST_LIVE
    assert site.voice.dropped == 100
    site.broker.start()
    assert site.bus.flush(10)
    site.voice.send_live("alive", Alive(state="idle"))
    assert site.voice.dropped == 100
