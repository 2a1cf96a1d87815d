"""What the contract suite needs of a broker, in memory and real, and a collector of deliveries."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from brokers import PATIENCE, RealBroker

from messages.bus.base import Bus, Delivery, Position, Subscription, digest_of
from messages.bus.memory import MemoryBroker, MemoryBus

REAL = [pytest.param(name, marks=pytest.mark.broker) for name in ("rabbitmq", "rabbitmq-tls")]
BROKER_ENDS = pytest.mark.parametrize("brokerage", ["memory", REAL[-1]], indirect=True)
"""For tests that stop a broker, which takes it ten seconds: over the line that does more."""


class Brokerage(Protocol):
    """A broker as the suite needs it: buses, and the accidents that befall streams."""

    def bus(self, party: str, **options: Any) -> Bus: ...

    def wipe(self, name: str) -> None: ...

    def interrupt(self) -> None:
        """Break all connections and let them come back."""

    def stop(self) -> None:
        """Go away."""

    def start(self) -> None:
        """Come back."""


@dataclass
class InMemory:
    broker: MemoryBroker
    buses: list[MemoryBus] = field(default_factory=list)

    def bus(self, party: str, **options: Any) -> Bus:
        bus = MemoryBus(self.broker, party, **({"verify_within": 0.2} | options))
        self.buses.append(bus)
        return bus

    def wipe(self, name: str) -> None:
        self.broker.wipe_stream(name)

    def interrupt(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self.broker.stop()

    def start(self) -> None:
        self.broker.start()


@dataclass
class InRabbit:
    broker: RealBroker
    tls: bool = False

    def bus(self, party: str, **options: Any) -> Bus:
        return self.broker.bus(party, tls=self.tls, **options)

    def wipe(self, name: str) -> None:
        self.broker.wipe(name)

    def interrupt(self) -> None:
        self.broker.node.restart()

    def stop(self) -> None:
        self.broker.node.stop()

    def start(self) -> None:
        self.broker.node.start()


class Collector:
    """A service in small: takes deliveries on a thread of its own, stores the position, acknowledges.

    Args:
        ack: False leaves every delivery unacknowledged until `ack_all`.
    """

    def __init__(self, *, ack: bool = True, position: Position | None = None) -> None:
        self.deliveries: list[Delivery] = []
        self.position = position
        self._ack = ack
        self._queue: queue.Queue[Delivery] = queue.Queue()
        self._subscription: Subscription | None = None

    def of(self, bus: Bus, name: str, **options: Any) -> Collector:
        """Subscribe to the queue and begin to collect."""
        self._subscription = bus.subscribe(name, self._queue.put, **options)
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def stored(self) -> Position | None:
        """What `Bus.subscribe(position=...)` asks for."""
        return self.position

    @property
    def subscription(self) -> Subscription:
        assert self._subscription is not None
        return self._subscription

    @property
    def bodies(self) -> list[bytes]:
        return [one.body for one in list(self.deliveries)]

    def ack_all(self) -> None:
        """Acknowledge what came so far and all that comes."""
        self._ack = True
        for delivery in list(self.deliveries):
            self.subscription.ack(delivery)

    def _work(self) -> None:
        while True:
            delivery = self._queue.get()
            if delivery.offset is not None:
                self.position = Position(delivery.offset, digest_of(delivery.body))
            self.deliveries.append(delivery)
            if self._ack:
                self.subscription.ack(delivery)


def send(bus: Bus, numbers: range, key: str = "round-start.coordinator.exp") -> None:
    """Publish numbers and wait for all confirms."""
    confirms = [bus.publish(key, b"%d" % number) for number in numbers]
    assert bus.flush(PATIENCE)
    assert all(confirm.done for confirm in confirms)


def numbered(numbers: range) -> list[bytes]:
    """The bodies that `send` sends."""
    return [b"%d" % number for number in numbers]
