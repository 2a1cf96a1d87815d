"""Messages in queues where their sender has no business: what the headers CC and BCC do on RabbitMQ 3.10, by the
exchange that all share."""

from __future__ import annotations

import hashlib

from messages.bus.memory import MemoryBroker
from messages.bus.memory.broker import Message
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk


def plant_message(broker: MemoryBroker, queue: str, key: str, body: bytes, user: str) -> None:
    """Put a message into a queue; its key and its validated user are whatever the sender may use."""
    with broker.changed:
        message = Message(key, body, user)
        if queue in broker.streams:
            broker.streams[queue].append_message(message)
        else:
            broker.inboxes[queue].ready.append(message)
        broker.wake_consumers(queue)


def forge_chunk(key: TransferKey, index: int, size: int, total: int) -> bytes:
    """A chunk that is right in all but its content: its digest is that of the wrong bytes."""
    data = b"\xff" * min(size, total - index * size)
    return encode_chunk(ChunkHeader(key, index, size, total, hashlib.sha256(data).digest()), data)
