"""The bus in memory: one broker object, any number of parties, in one process. For simulation and fast tests.

The broker is faithful where it matters: streams with offsets and retention, classic inboxes with redelivery and
exclusive consumers, topic bindings, users and permissions from the same definitions as RabbitMQ's, and the same
silence for a consumer that attaches behind the end of a wiped stream. Each bus delivers on a thread of its own,
queue by queue in order.

`broker` holds the messages, `connection` is one party's side, `subscription` one consumer of one queue.
"""

from messages.bus.memory.broker import MemoryBroker
from messages.bus.memory.connection import MemoryBus

__all__ = ["MemoryBroker", "MemoryBus"]
