"""The coordinator's own word, read back: `downlink`, `audit` and `models` hold what it alone can publish again.

Others read these streams, and cannot know what should be in them. So the coordinator reads each, too, remembers its
last message, and throws the content away: that a stream is gone shows at once (the broker cancels the consumer), that
it is another one by the message at the stored position, after each reconnect, start, and silence (`bus.consumer`).
Read from the end on, so that nothing is fetched twice; a model comes back once, when the experiment is complete.

On RabbitMQ 3.10 others reach these streams as long as the exchange that all share is open (headers CC and BCC), and
what they write pushes ours out: a stream drops its head. So their bytes are counted. Where they come to a third of
ours, and to a segment at least, all of ours is said again: so what we say for it is at most three times what they said.
So it is where a stream dropped what was not read yet, since nothing that lay before is there then.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from messages.bus.base import Bus, Delivery, Position, Start, Subscription, digest_of
from messages.names import AUDIT, COORDINATOR, DOWNLINK, MODELS

OWN_WORD: Mapping[str, int] = {DOWNLINK: 64, AUDIT: 256, MODELS: 2}
"""Queue → credit: a chunk of a model is large, and holds up no update on its way in."""
OTHERS_AT_LEAST = 16 * 2**20
"""Bytes of others that push nothing out: streams drop whole segments (`deploy.broker.topology.StreamSizes`)."""
OTHERS_SHARE = 3
"""Ours is said again for such a part of its bytes."""
AGAIN_EVERY = 600.0
"""Seconds between two times that all of a stream is said again: the first must come through."""
MOST_USERS = 8
"""Names that are kept of those who write where they have no business."""
SHARES = "own-word-shares"
"""Where the journal keeps what was counted."""


@dataclass
class _Share:
    """Whose bytes came by a stream since all of ours was said last."""

    own: int = 0
    others: int = 0
    whole: int = 0
    """What all of ours was then."""
    jumped: bool = False
    """Whether the stream dropped messages that were not read yet."""
    users: list[str] = field(default_factory=list)

    @property
    def endangered(self) -> bool:
        if self.jumped and self.others:
            return True
        return self.others >= max(OTHERS_AT_LEAST, max(self.own, self.whole) // OTHERS_SHARE)


class ReadingBack:
    """Hears on threads of the bus; positions and counts are taken by the main loop.

    Args:
        stored: where a queue was read to, as the journal has it. Any thread.
        recall: what the journal keeps under a key; called here alone.
    """

    def __init__(self, stored: Callable[[str], Position | None], recall: Callable[[str], bytes | None]) -> None:
        self._stored = stored
        self._shares = _read_shares(recall(SHARES))
        self._unsaved_shares = False
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._read: dict[str, Position | None] = {}
        self._unsaved: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._early: list[Delivery] = []
        """What came before `subscribe_to_all` had returned, which is what gives its credit back."""

    def subscribe_to_all(self, bus: Bus) -> None:
        """Read all of them from now on; one that is not there is told by the bus (MISSING)."""
        for queue, credit in OWN_WORD.items():
            subscription = bus.subscribe(
                queue,
                self.take_delivery,
                position=partial(self._position_of, queue),
                start=Start.NEXT,
                credit=credit,
                vital=False,
            )
            with self._lock:
                self._subscriptions[queue] = subscription
                early, self._early = self._early, []
            for delivery in early:
                subscription.ack(delivery)

    def unsaved_positions(self) -> dict[str, Position]:
        """Where they were read to, as far as that is not stored yet; they count as stored then."""
        with self._lock:
            taken = {queue: read for queue in self._unsaved if (read := self._read[queue]) is not None}
            self._unsaved.clear()
        return taken

    def unsaved_shares(self) -> dict[str, bytes]:
        """What was counted, by its key in the journal, where others wrote since it was last asked for."""
        with self._lock:
            if not self._unsaved_shares:
                return {}
            self._unsaved_shares = False
            return {SHARES: json.dumps({queue: asdict(share) for queue, share in self._shares.items()}).encode()}

    def list_pushed_out(self, now: float) -> dict[str, list[str]]:
        """Queues out of which others may have pushed what is ours, and their logins ("nobody": they named none).

        Args:
            now: seconds, monotonic.
        """
        with self._lock:
            return {
                queue: sorted(share.users)
                for queue, share in self._shares.items()
                if share.endangered and now - self._told_at.get(queue, -AGAIN_EVERY) >= AGAIN_EVERY
            }

    def note_told(self, queue: str, now: float) -> None:
        """All of what is ours is said again in this queue."""
        with self._lock:
            share = self._shares[queue]
            self._shares[queue] = _Share(whole=max(share.own, share.whole))
            self._unsaved_shares = self._unsaved_shares or share.others > 0
            self._told_at[queue] = now

    def note_renewed(self, queue: str) -> None:
        """The bus said that this is not the stream that was read: while it stays empty that is no news any more."""
        with self._lock:
            self._read[queue] = None

    def cancel(self) -> None:
        """Stop reading."""
        for subscription in self._subscriptions.values():
            subscription.cancel()

    def _position_of(self, queue: str) -> Position | None:
        with self._lock:
            if queue in self._read:
                return self._read[queue]
        return self._stored(queue)

    def take_delivery(self, delivery: Delivery) -> None:
        """Remember a message's place and size, and nothing else of it."""
        if delivery.offset is not None:
            position = Position(delivery.offset, digest_of(delivery.body))
            with self._lock:
                before = self._read.get(delivery.queue)
                if before is None or before.offset < delivery.offset:
                    self._count_bytes(delivery)
                    share = self._shares[delivery.queue]
                    share.jumped = share.jumped or (before is not None and before.offset + 1 < delivery.offset)
                self._read[delivery.queue] = position
                self._unsaved.add(delivery.queue)
                subscription = self._subscriptions.get(delivery.queue)
                if subscription is None:
                    self._early.append(delivery)
            if subscription is not None:
                subscription.ack(delivery)

    def _count_bytes(self, delivery: Delivery) -> None:
        share = self._shares[delivery.queue]
        if delivery.user == COORDINATOR:
            share.own += len(delivery.body)
            return
        share.others += len(delivery.body)
        self._unsaved_shares = True
        user = delivery.user or "nobody"
        if user not in share.users and len(share.users) < MOST_USERS:
            share.users.append(user)


def _read_shares(kept: bytes | None) -> dict[str, _Share]:
    """What was counted, as far as it was kept and can be read: it decides nothing but what is said again."""
    shares = {queue: _Share() for queue in OWN_WORD}
    try:
        plain = {} if kept is None else json.loads(kept)
        return shares | {queue: _Share(**plain[queue]) for queue in shares if queue in plain}
    except (ValueError, TypeError):
        return shares
