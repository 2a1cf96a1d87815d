"""One suite, two buses: each test runs over the broker in memory and over a real RabbitMQ, plain and with TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from brokerage import REAL, Brokerage, InMemory, InRabbit
from brokers import consortium_definitions

from messages.bus.memory import MemoryBroker


@pytest.fixture(params=["memory", *REAL])
def brokerage(request: pytest.FixtureRequest) -> Iterator[Brokerage]:
    """A broker with every queue empty, of either make."""
    if request.param.startswith("rabbitmq"):
        yield InRabbit(request.getfixturevalue("clean_broker"), tls=request.param.endswith("tls"))
        return
    memory = InMemory(MemoryBroker(consortium_definitions()))
    yield memory
    for bus in memory.buses:
        bus.close()
