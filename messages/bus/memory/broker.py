"""The broker in memory: streams and inboxes, who may write what into them, and being stopped and started."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from messages import names
from messages.bus.memory.grants import Grants, Topics
from messages.ground.clock import Clock, Condition, SystemClock
from messages.ground.errors import LoginRefused, RequestError


@dataclass(frozen=True, slots=True)
class Message:
    """As it lies in a queue; `user` is who published it."""

    key: str
    body: bytes
    user: str


@dataclass
class Stream:
    """Messages by offset; the head goes when there are more than `max_bytes`, the last message never."""

    max_bytes: int | None
    first: int = 0
    size: int = 0
    messages: deque[Message] = field(default_factory=deque)

    @property
    def end(self) -> int:
        return self.first + len(self.messages)

    def append_message(self, message: Message) -> None:
        self.messages.append(message)
        self.size += len(message.body)
        if self.max_bytes is not None:
            while self.size > self.max_bytes and len(self.messages) > 1:
                self.drop_head()

    def drop_head(self) -> None:
        self.size -= len(self.messages.popleft().body)
        self.first += 1

    def get_message(self, offset: int) -> Message:
        return self.messages[offset - self.first]


@dataclass
class Inbox:
    """A classic queue: what waits, who holds it for itself, how many consume it."""

    ready: deque[Message] = field(default_factory=deque)
    exclusive: object | None = None
    consumers: int = 0


class Consumer(Protocol):
    """What the broker asks of a queue's consumer."""

    def wake_up(self) -> None:
        """Look whether the queue has something for it."""


class Listener(Protocol):
    """What the broker asks of a connected bus."""

    @property
    def news(self) -> Condition:
        """Notified, with the broker's lock held, when the broker was stopped or started."""


class MemoryBroker:
    """A broker with one vhost.

    Args:
        definitions: RabbitMQ definitions, as `deploy.broker.definitions.render_definitions` makes them.
        vhost: which of their vhosts; default: the only one.
        clock: of the broker and of the buses on it.
    """

    def __init__(self, definitions: Mapping[str, Any], vhost: str | None = None, *, clock: Clock | None = None) -> None:
        self.clock: Clock = SystemClock() if clock is None else clock
        self.vhost = definitions["vhosts"][0]["name"] if vhost is None else vhost
        self.grants = Grants(definitions, self.vhost)
        self.lock = threading.RLock()
        """Guards everything here and in the buses."""
        self.changed = self.clock.make_condition(self.lock)
        """Tells of exclusive locks and confirms; of messages each bus hears by itself, for its own queues only."""
        self.buses: dict[Listener, None] = {}
        """In the order in which they came: a set's order would differ from process to process."""
        self.consumers: dict[str, list[Consumer]] = {}
        self.up = True
        self.epoch = 1
        self.streams: dict[str, Stream] = {}
        self.inboxes: dict[str, Inbox] = {}
        self._limits: dict[str, int | None] = {}
        for queue in definitions["queues"]:
            if queue["vhost"] != self.vhost:
                continue
            if queue["arguments"].get("x-queue-type") == "stream":
                self._limits[queue["name"]] = queue["arguments"].get("x-max-length-bytes")
                self.wipe_stream(queue["name"])
            else:
                self.inboxes[queue["name"]] = Inbox()
        bindings: dict[str, list[tuple[str, str]]] = {
            exchange["name"]: [] for exchange in definitions["exchanges"] if exchange["vhost"] == self.vhost
        }
        for binding in definitions["bindings"]:
            if binding["vhost"] == self.vhost:
                bindings[binding["source"]].append((binding["routing_key"], binding["destination"]))
        self._topics = {exchange: Topics(bound) for exchange, bound in bindings.items()}

    def exchange_for(self, user: str) -> str:
        """The exchange that a party writes to: its own, or where there is none that of topology 1."""
        own = names.exchange_of(user)
        return own if own in self._topics else names.OLD_EXCHANGE

    def queues_for(self, exchange: str, key: str) -> list[str]:
        """The queues that a routing key leads to from an exchange."""
        return sorted(self._topics[exchange].queues_for(key))

    def wake_consumers(self, queue: str) -> None:
        """Have the queue's consumers look at it; with the lock held."""
        for subscription in self.consumers.get(queue, ()):
            subscription.wake_up()

    def publish(self, user: str, key: str, body: bytes) -> None:
        """Route one message; raises LoginRefused (permission) or RequestError (no queue takes the key)."""
        exchange = self.exchange_for(user)
        with self.changed:
            if not self.grants.may_write(user, exchange, key):
                raise LoginRefused(
                    f"{user!r} may not write {key!r}",
                    where=self.vhost,
                    advice="Ask the consortium's operator for the permission",
                )
            queues = self.queues_for(exchange, key)
            if not queues:
                raise RequestError(f"no queue takes the key {key!r}", where=self.vhost)
            message = Message(key, body, user)
            for queue in queues:
                if queue in self.streams:
                    self.streams[queue].append_message(message)
                else:
                    self.inboxes[queue].ready.append(message)
                self.wake_consumers(queue)

    def wipe_stream(self, queue: str) -> None:
        """Delete a stream and declare it again, empty; its offsets begin at 0, and its consumers attach anew."""
        with self.changed:
            self.streams[queue] = Stream(self._limits[queue])
            self.wake_consumers(queue)

    def truncate_stream(self, queue: str, keep: int) -> None:
        """Drop a stream's head, as retention does, until `keep` messages are left; offsets stay."""
        with self.changed:
            stream = self.streams[queue]
            while len(stream.messages) > keep:
                stream.drop_head()

    def count_messages(self, queue: str) -> int:
        """How many messages wait in a queue or are kept in a stream."""
        with self.changed:
            if queue in self.streams:
                return len(self.streams[queue].messages)
            return len(self.inboxes[queue].ready)

    def stop(self) -> None:
        """Break every connection; publishes wait until `start`."""
        with self.changed:
            self.up = False
            self._tell_all()

    def start(self) -> None:
        """Take connections again: every bus attaches anew, and unacknowledged inbox messages come again."""
        with self.changed:
            self.up = True
            self.epoch += 1
            self._tell_all()
            self.changed.notify_all()

    def _tell_all(self) -> None:
        for bus in self.buses:
            bus.news.notify_all()
