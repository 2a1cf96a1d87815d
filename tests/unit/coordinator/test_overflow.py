"""What the coordinator has to say while the broker is away: a bounded part in memory, the rest in a file, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import site_consortium as script
from brokers import PATIENCE, eventually

from coordinator.wire import outgoing, overflow
from coordinator.wire.outgoing import Events
from coordinator.wire.overflow import Overflow
from messages.bus.base import MOST_MESSAGES
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.ground.clock import SystemClock

MANY = 5000


def message(number: int) -> tuple[str, bytes]:
    return f"receipt.coordinator.exp-{number}.site-a", b"%d" % number


def in_memory(queue: Overflow) -> int:
    return len(queue._near) + len(queue._behind)


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Overflow]:
    one = Overflow(tmp_path, SystemClock())
    yield one
    one.close()


def drained(queue: Overflow) -> list[tuple[str, bytes]]:
    queue.put(None)
    found = []
    while (item := queue.get()) is not None:
        found.append(item)
    return found


def test_what_overflows_comes_out_in_order_and_memory_stays_bounded(waiting: Overflow, tmp_path: Path) -> None:
    out = []
    for number in range(MANY):
        waiting.put(message(number))
        assert in_memory(waiting) <= overflow.MOST
        if number % 3 == 0:
            out.append(waiting.get())
    assert len(waiting) == MANY - len(out)
    assert [*out, *drained(waiting)] == [message(number) for number in range(MANY)]
    assert len(waiting) == 0
    assert list(tmp_path.iterdir()) == []  # the file has no name: a kill leaves nothing behind


def test_few_messages_need_no_file(waiting: Overflow) -> None:
    for number in range(overflow.MOST):
        waiting.put(message(number))
    assert waiting._file is None


def test_large_messages_overflow_by_their_bytes_and_one_of_any_size_may_wait(waiting: Overflow) -> None:
    large = [("standing.coordinator.exp.site-a", bytes([number]) * (overflow.MOST_BYTES + 1)) for number in range(4)]
    for one in large:
        waiting.put(one)
        assert in_memory(waiting) == 1
    assert drained(waiting) == large


def test_a_disk_that_takes_no_more_loses_nothing_and_changes_no_order(
    waiting: Overflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file that takes so many bytes more, and the last write in part."""

        def __init__(self, file, left: int) -> None:  # type: ignore[no-untyped-def]
            self._file, self._left = file, left

        def write(self, data: memoryview) -> int:
            if not self._left:
                raise OSError(28, "No space left on device")
            taken = min(self._left, len(data))
            self._left -= taken
            return int(self._file.write(data[:taken]))

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

    made = overflow.tempfile.TemporaryFile
    monkeypatch.setattr(overflow.tempfile, "TemporaryFile", lambda **given: Full(made(**given), 30_001))
    for number in range(MANY):
        waiting.put(message(number))
    assert waiting._behind
    assert drained(waiting) == [message(number) for number in range(MANY)]


def test_whoever_waits_for_a_message_gets_it(waiting: Overflow) -> None:
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.extend((waiting.get(), waiting.get())))
    reader.start()
    waiting.put(message(1))
    waiting.put(None)
    reader.join(PATIENCE)
    assert found == [message(1), None]


class Speaking:
    """The coordinator's events on a bus in memory."""

    def __init__(self, folder: Path) -> None:
        self.broker: MemoryBroker = script.broker()
        self.bus = MemoryBus(self.broker, "coordinator")
        self.events = Events(self.bus, folder, SystemClock())
        self.events.start()

    def arrived(self, queue: str) -> list[bytes]:
        return [one.body for one in list(self.broker.streams[queue].messages)]


@pytest.fixture
def speaking(tmp_path: Path) -> Iterator[Speaking]:
    one = Speaking(tmp_path)
    yield one
    one.bus.close()
    one.events.stop()


def test_thousands_of_events_outlast_a_broker_that_is_away(speaking: Speaking) -> None:
    speaking.broker.stop()
    for number in range(MANY):
        speaking.events.send_event("round-start.coordinator.exp-1", b"%d" % number)
        if number % 10 == 0:
            speaking.events.send_event("alive.coordinator.none", b"alive")
    eventually(lambda: speaking.bus.count_pending().messages >= MOST_MESSAGES, what="the bus has all that it takes")
    assert speaking.bus.count_pending().messages == MOST_MESSAGES
    assert in_memory(speaking.events.waiting) <= overflow.MOST
    assert len(speaking.events.waiting) >= MANY - MOST_MESSAGES - 1
    assert speaking.events.dropped > 0  # signs of life of yesterday
    speaking.broker.start()
    eventually(lambda: len(speaking.arrived("downlink")) == MANY, what="all arrives")
    assert speaking.arrived("downlink") == [b"%d" % number for number in range(MANY)]
    assert len(speaking.arrived("progress")) + speaking.events.dropped == MANY // 10


def test_a_live_message_goes_out_where_little_waits(speaking: Speaking) -> None:
    for _number in range(outgoing.MOST_LIVE * 2):
        speaking.events.send_event("alive.coordinator.none", b"alive")
        eventually(lambda: not len(speaking.events.waiting), what="it is gone")
    assert speaking.events.dropped == 0
