"""Entries of the event log that the broker lost are published again; readers know entries by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, consortium_definitions, eventually

from coordinator.record.journal import ASIDE, Journal
from coordinator.wire.outgoing import Audit
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.chain import decode_entry
from messages.ground.clock import SystemClock
from messages.ground.naming import NO_EXPERIMENT
from messages.names import AUDIT

ENTRIES = 6


class Log:
    """A journal of some entries, published once, and what the broker holds of it."""

    def __init__(self, folder: Path) -> None:
        self.broker = MemoryBroker(consortium_definitions())
        self.journal = Journal(folder)
        for number in range(ENTRIES):
            self.journal.append_entry(NO_EXPERIMENT, ASIDE, {"number": number}, time=float(number))
        self.coordinator, self.auditor = MemoryBus(self.broker, "coordinator"), MemoryBus(self.broker, "auditor")
        self.audit = Audit(self.coordinator, self.journal.path, SystemClock())
        self.audit.start()

    def held(self) -> set[int]:
        """Numbers of the entries that the stream holds."""
        found: set[int] = set()

        def take(delivery: Delivery) -> None:
            found.add(decode_entry(delivery.body).number)
            subscription.ack(delivery)

        subscription = self.auditor.subscribe(AUDIT, take, credit=10_000)
        eventually(lambda: found, what="an entry")
        self.coordinator.flush(PATIENCE)
        subscription.cancel()
        return set(found)

    def close(self) -> None:
        self.audit.stop()
        self.coordinator.close()
        self.auditor.close()
        self.journal.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    one = Log(tmp_path / "coordinator")
    one.audit.wake_up()
    eventually(lambda: len(one.held()) == ENTRIES, what="the whole log")
    yield one
    one.close()


def test_a_wiped_event_log_is_published_again_from_its_first_entry(log: Log) -> None:
    log.broker.wipe_stream(AUDIT)
    log.audit.publish_again()
    eventually(lambda: log.held() == set(range(1, ENTRIES + 1)), what="every entry")


def test_the_last_entries_are_published_again_when_the_broker_is_back(log: Log) -> None:
    log.broker.wipe_stream(AUDIT)
    log.audit.publish_again(2)
    eventually(lambda: log.held() == {ENTRIES - 1, ENTRIES}, what="the last two")
