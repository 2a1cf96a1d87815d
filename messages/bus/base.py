"""The interface to a broker. Foreign exceptions (pika, sockets, ssl) stop at its implementations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Protocol, runtime_checkable

Body = bytes | tuple[bytes | memoryview, ...]
"""A message's body, whole or as pieces that are sent one after the other without being copied into one: each
C-contiguous and of format "B", and unchanged until the confirm."""

MOST_MESSAGES = 1000
"""Messages that a bus holds unconfirmed, beside the bound on their bytes: small ones cost more memory than they weigh.
Who has more to say keeps it on the disk, and hands it over as the bus takes it."""
IDENTIFYING = 4096
"""The first bytes of a message that tell it from every other: an event's id and sequence number, a chunk's header with
the digest of its data."""


def digest_of(body: bytes) -> bytes:
    """By what a `Position` knows its message again, 32 bytes: the SHA-256 of its body, and of a body of more than
    `IDENTIFYING` bytes that of so many and its length. Cheap enough to be taken of every message as it comes, so that
    no body has to be kept for it: a coordinator would hold a chunk for each of its sites.
    """
    if len(body) <= IDENTIFYING:
        return sha256(body).digest()
    return sha256(body[:IDENTIFYING] + len(body).to_bytes(8, "big")).digest()


@dataclass(frozen=True, slots=True)
class Position:
    """The last message of a stream that a service has stored: its offset and the digest of its body."""

    offset: int
    digest: bytes


class Start(StrEnum):
    """Where a stream subscription without a stored position begins."""

    FIRST = "first"
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came.

    `offset` is the stream's offset, None on an inbox. `user` is the broker-validated user id of the publisher,
    None where the publisher did not set it. `tag` identifies the delivery for `Subscription.ack`.
    """

    queue: str
    key: str
    body: bytes
    user: str | None
    offset: int | None
    tag: int
    epoch: int = 0
    """Number of the attachment it came by; acks of an earlier attachment are ignored."""


class Confirm(Protocol):
    """The broker's confirm of one publish."""

    def wait(self, timeout: float | None = None) -> bool:
        """True once the broker has confirmed; False on time-out. Raises the bus's error if the publish was lost."""

    @property
    def done(self) -> bool:
        """Whether the broker has answered."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What was published and is not confirmed: messages, bytes, and seconds that the oldest has waited.

    `blocked`: the broker takes nothing from publishers (a disk or memory alarm).
    """

    messages: int = 0
    bytes: int = 0
    waited: float = 0.0
    blocked: bool = False


class BusState(StrEnum):
    """What a bus reports to its owner (for logs, `status` and tests)."""

    CONNECTED = "connected"
    LOST = "lost"
    BLOCKED = "blocked"
    UNBLOCKED = "unblocked"
    REFUSED = "refused"
    """The login, or the right to a queue or to the exchange, was taken away; it is tried again until it is back."""
    RENEWED = "renewed"
    """A queue (`detail`) is not the one that was read before: wiped, made anew, or its head is gone. The connection is
    as it was; what was published before may be lost, so owners say again what nobody has acknowledged."""
    MISSING = "missing"
    """A queue (`detail`) without which the party can live is not there, or may not be read; it is tried again until it
    is, and nothing else waits for it."""
    FOUND = "found"
    """It is there again (`detail`); whether it is the one that was read before is told by RENEWED."""
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Notice:
    """A change of a bus's state; `detail` is for the log. `retry_in` is seconds until the next try, if any."""

    state: BusState
    detail: str = ""
    retry_in: float | None = None


OnDelivery = Callable[[Delivery], None]
"""Called on the bus's I/O thread: hand over and return at once (queue.put), never do long work."""

OnNotice = Callable[[Notice], None]
"""Called on the bus's I/O thread for each change of state."""


class Subscription(Protocol):
    """A running consumer of one queue; it survives reconnects."""

    def ack(self, delivery: Delivery) -> None:
        """Give the credit back (streams) or remove the message (inbox). Call after the content is stored.

        Thread-safe. On a stream an ack persists nothing: where to resume is the service's stored `Position`.
        """

    def seek(self, position: Position | None) -> None:
        """Read a stream again from behind this position; None: from its head. Thread-safe."""

    def cancel(self) -> None:
        """Stop delivering. Idempotent."""


@runtime_checkable
class Bus(Protocol):
    """One party's way to the broker of its consortium. Thread-safe."""

    def publish(self, key: str, body: Body) -> Confirm:
        """Send one message to the party's exchange with its user id set.

        Persistent, confirmed asynchronously. Blocks while the window (unconfirmed bytes, some seconds of the rate at
        which they are confirmed, `MOST_MESSAGES`) is full or the broker blocks publishers; `count_pending` tells. What
        was not confirmed when a connection broke is sent again after reconnecting, in order (so a message may come
        twice: receivers drop duplicates by id).

        Raises:
            BrokerUnreachable: the bus was closed.
            LoginRefused: the broker refuses to let this party write this key.
        """

    def subscribe(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        position: Callable[[], Position | None] | None = None,
        start: Start = Start.FIRST,
        credit: int = 64,
        exclusive: bool = False,
        vital: bool = True,
    ) -> Subscription:
        """Consume a queue from now on, through reconnects.

        Args:
            position: asked at every attach for the last stored position of a stream. With one, the bus reads again
                from its offset, compares the digest within a deadline, and drops that message on a match; on a
                mismatch or silence it attaches at first (the stream was wiped, or its head is gone).
            start: where to begin a stream without a position.
            credit: unacknowledged deliveries in flight (prefetch).
            exclusive: inboxes only: be the single consumer.
            vital: False: that the queue does not exist, or may not be read, is no error, now or later: MISSING tells,
                and FOUND once it is there.

        Raises:
            NameTaken: another exclusive consumer holds the queue (after waiting as long as a dead holder's lock
                may last).
            RequestError: the queue does not exist (topology comes from definitions, not from services).
        """

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was published is confirmed; False on time-out."""

    def count_pending(self) -> Pending:
        """What waits for the broker's confirm now."""

    def close(self) -> None:
        """Flush what can be flushed within a few seconds, and close. Idempotent."""
