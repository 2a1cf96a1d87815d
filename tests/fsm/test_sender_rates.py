"""A sender is read at a bounded rate; what is skipped is said again, and reading back loses nothing that is honest."""

from __future__ import annotations

import pytest
from brokers import eventually
from coordinator_kit import CONSORTIUM, PLATFORM, SITES, counts, plain
from coordinator_rig import Consortium, running

from coordinator.core.state import Standing
from coordinator.loop import floods, inbound
from coordinator.wire import rates
from coordinator.wire.rates import Rates
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.names import UPLINK
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 0.0

    def read(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def delivery(number: int, sender: str | None = "site-a", size: int = 100) -> Delivery:
    return Delivery("uplink", "key", number.to_bytes(8, "big") + bytes(size - 8), sender, number, number, 1)


def passed(one: Rates, numbers: range, sender: str | None = "site-a", size: int = 100) -> list[int]:
    return [number for number in numbers if one.may_pass(delivery(number, sender, size))]


def test_a_sender_is_read_at_once_up_to_its_burst_and_then_at_its_rate() -> None:
    clock = Hands()
    one = Rates(clock.read)
    first = passed(one, range(5000))
    assert first == list(range(len(first)))
    assert 0.9 * rates.BURST < len(first) <= rates.BURST
    assert len(passed(one, range(5000), "site-b")) == len(first)  # nobody pays for another one
    assert passed(one, range(5000, 5100), None)
    clock.sleep(10.0)
    assert len(passed(one, range(6000, 9000))) <= 10 * rates.A_SECOND


def test_a_large_message_counts_as_many_and_the_largest_is_let_through() -> None:
    clock = Hands()
    one = Rates(clock.read)
    largest = 4 * 2**20
    assert passed(one, range(10), size=largest) == [0]
    clock.sleep(largest / rates.PIECE / rates.A_SECOND + 1)
    assert passed(one, range(10, 20), size=largest) == [10]


def test_what_an_outbox_says_again_and_again_does_not_cost_what_it_says_besides() -> None:
    """Half a day without a coordinator: ten events every 30 s, and one more towards the end."""
    clock = Hands()
    one = Rates(clock.read)
    seen: set[int] = set()
    for turn in range(1440):
        seen |= set(passed(one, range(10 if turn < 1400 else 11)))
    assert seen == set(range(11))


def test_after_a_calm_while_the_same_message_is_read_as_the_first_time() -> None:
    clock = Hands()
    one = Rates(clock.read)
    for _ in range(5):
        assert passed(one, range(300)) == list(range(300))
        clock.sleep(60.0)


def test_a_flood_is_skipped_unread_counted_and_takes_no_step(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = envelope.decode_event

    def counting(raw: bytes) -> envelope.Event:
        decoded.append(raw)
        return decode(raw)

    consortium.start()
    consortium.join()
    monkeypatch.setattr(inbound.envelope, "decode_event", counting)
    bus, author = MemoryBus(consortium.broker, "site-a"), Author(CONSORTIUM, "site-a", 1)
    for n in range(20_000):
        body = kinds.Joined(cases=counts(1), platform=PLATFORM)
        event = author.write_event("joined", body, time=0.0, experiment="exp-9", attempt=n, seq=n + 1)
        bus.publish(event.key, event.raw)
    bus.close()
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of("site-a", "skipped") > 10_000, what="most of it is skipped")
    consortium.say("experiment-start", START)
    body = consortium.until("experiment-accepted").body
    assert isinstance(body, kinds.ExperimentAccepted)
    read = sum(b"exp-9" in raw for raw in decoded)
    skipped = steps.floods.count_of("site-a", "skipped")
    assert 20_000 <= read + skipped <= 20_010  # what the site itself says of exp-1 may be among what is skipped
    consortium.stop()
    # Everything was read or passed over: a restart does not begin with the flood again.
    position = consortium.start().journal.position_of(UPLINK)
    assert position is not None
    assert position.offset >= 20_000


def test_after_a_long_outage_every_honest_event_is_read_though_each_was_said_many_times(
    consortium: Consortium,
) -> None:
    """The coordinator is away; meanwhile the sites say all that has no receipt again and again, beside a flood."""
    consortium.start()
    consortium.join()
    held = consortium.sites[-1]
    held.lost_chunks = {0}
    consortium.say("experiment-start", START)
    held.news.until(lambda: 1 in held.updates, "round 1")
    consortium.stop()
    for site in SITES:
        bus, author = MemoryBus(consortium.broker, site), Author(CONSORTIUM, site, 2)
        joined = kinds.Joined(cases=counts(7), platform=PLATFORM)
        waiting = [author.write_event("joined", joined, time=0.0, experiment=f"exp-{n}", seq=n) for n in range(2, 302)]
        for _ in range(8):
            for event in waiting:
                bus.publish(event.key, event.raw)
        late = author.write_event(
            "declined", kinds.Declined(reason=Reason.POLICY_EXPIRED), time=0.0, experiment="exp-1", seq=400
        )
        bus.publish(late.key, late.raw)
        bus.close()
    consortium.start()
    shell = running(consortium).shell
    eventually(lambda: not shell.parts.gate.closed, what="all of it is read")
    assert all(shell.steps.floods.count_of(site, "skipped") > 1000 for site in SITES)
    for site in SITES:
        assert shell.steps.states["exp-1"].members[site].standing is Standing.DECLINED
        # Each of the others was looked at: it is refused, and beyond what is journaled only counted.
        assert shell.steps.floods.count_of(site, Reason.UNKNOWN_EXPERIMENT) == 300 - floods.MOST
