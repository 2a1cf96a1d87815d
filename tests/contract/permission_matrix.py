"""Every attempt of every role on every queue, and what of it came through: run against a real node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pika
from brokers import PATIENCE, VHOST, RealBroker, eventually
from pika import exceptions

from messages import kinds, names

ROLES = ("coordinator", "site-a", "dr-a", "auditor", "viewer")
"""One party of each role; the others are those that it might harm."""
EXPERIMENT = "exp"

MAY_WRITE = {
    "coordinator": {"downlink", "global", "audit", "models", "progress", "uplink"}
    | {"inbox.site-a", "inbox.site-b", "inbox.site-c", "inbox.dr-a"},
    "site-a": {"uplink", "progress", "update.site-a", "inbox.coordinator"},
    "dr-a": {"uplink"},
    "auditor": set(),
    "viewer": set(),
}
MAY_READ = {
    "coordinator": {"uplink", "progress", "downlink", "audit", "models", "inbox.coordinator"}
    | {"update.site-a", "update.site-b", "update.site-c"},
    "site-a": {"downlink", "global", "progress", "inbox.site-a"},
    "dr-a": {"downlink", "progress", "audit", "models", "inbox.dr-a"},
    "auditor": {"audit", "models"},
    "viewer": {"audit", "progress"},
}
MAIN_KEY = {
    "coordinator": "coordinator-hello",
    "site-a": "hello",
    "dr-a": "experiment-check",
    "auditor": "hello",
    "viewer": "hello",
}
"""A kind that the role may say: what carries the headers CC and BCC."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to write: it is the message's body too."""

    role: str
    verb: str
    queue: str
    exchange: str
    key: str

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


def keys_for(queue: str, sender: str) -> list[str]:
    """Routing keys in `sender`'s name by which some exchange could lead to the queue."""
    if queue.startswith("inbox."):
        party = queue.removeprefix("inbox.")
        said = ("receipt", "standing", "refused", "chunks-wanted", "hello", "round-start")
        return [f"{kind}.{sender}.{EXPERIMENT}.{party}" for kind in said]
    route = "update" if queue.startswith("update.") else queue
    return [f"{kind}.{sender}.{EXPERIMENT}" for kind, where in sorted(kinds.ROUTES.items()) if where == route]


class Door:
    """One role's connection, whose channel is opened again when the broker has closed it."""

    def __init__(self, broker: RealBroker, role: str) -> None:
        self._broker, self._role = broker, role
        self._connection: pika.BlockingConnection | None = None
        self._channel: Any = None

    def try_out(self, action: Callable[[Any], Any]) -> bool:
        """Whether the broker lets the role do it."""
        try:
            action(self._open_channel())
        except (exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker):
            return False
        return True

    def close(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _open_channel(self) -> Any:
        if self._connection is None or not self._connection.is_open:
            credentials = pika.PlainCredentials(self._role, f"pw-{self._role}")
            node = self._broker.node
            self._connection = pika.BlockingConnection(
                pika.ConnectionParameters(node.host, node.port, VHOST, credentials)
            )
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel


def list_writes(role: str, parties: list[str], queues: list[str]) -> Iterator[tuple[Attempt, dict[str, Any]]]:
    """Every try of a role to write, with the message's headers."""
    own, old = names.exchange_of(role), names.OLD_EXCHANGE
    others = [names.exchange_of(party) for party in parties if party != role]
    main = f"{MAIN_KEY[role]}.{role}.{EXPERIMENT}"
    for queue in queues:
        keys = [*keys_for(queue, role), *keys_for(queue, "coordinator"), *keys_for(queue, "site-b")]
        yield from ((Attempt(role, "own exchange", queue, own, key), {}) for key in keys)
        for exchange in (*others, old, "amq.topic", "amq.direct", "amq.fanout", "amq.headers"):
            yield Attempt(role, "another's exchange", queue, exchange, keys[0]), {}
        yield Attempt(role, "default exchange", queue, "", queue), {}
        for header in ("CC", "BCC"):
            for exchange in (own, old, others[0]):
                yield Attempt(role, header, queue, exchange, main), {header: [*keys, queue]}
        if queue.startswith("inbox."):
            party = queue.removeprefix("inbox.")
            for exchange in (own, old):
                yield Attempt(role, "fourth word", queue, exchange, f"{main}.{party}"), {}


def write_all(door: Door, attempts: Iterator[tuple[Attempt, dict[str, Any]]]) -> list[Attempt]:
    """Try each; returns what the broker took, wherever it led."""
    taken = []
    for attempt, headers in attempts:
        properties = pika.BasicProperties(user_id=attempt.role, headers=headers or None)

        def publish(channel: Any, attempt: Attempt = attempt, properties: Any = properties) -> None:
            channel.basic_publish(attempt.exchange, attempt.key, attempt.encode(), properties)

        if door.try_out(publish):
            taken.append(attempt)
    return taken


def read_all(broker: RealBroker) -> list[tuple[str, str, Attempt]]:
    """(queue, validated user, attempt) of all that lies in the queues."""
    found: list[tuple[str, str, Attempt]] = []
    with broker.admin() as admin:
        for queue in (entry["name"] for entry in broker.definitions["queues"]):
            channel = admin.channel()
            channel.confirm_delivery()
            channel.basic_publish("", queue, b"end")
            channel.basic_qos(prefetch_count=100)
            arguments = {"x-stream-offset": "first"} if names.is_stream(queue) else None
            for method, properties, body in channel.consume(queue, arguments=arguments, inactivity_timeout=PATIENCE):
                assert method is not None, f"{queue} does not tell what it holds"
                channel.basic_ack(method.delivery_tag)
                if body == b"end":
                    break
                found.append((queue, properties.user_id, Attempt(**json.loads(body))))
            channel.cancel()
            channel.close()
    return found


def list_deeds(queue: str, role: str, arguments: dict[str, Any]) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Every try of a role to do something else with a queue or its exchanges: the verb, and how."""
    own = names.exchange_of(role)
    stream = {"x-stream-offset": "first"} if names.is_stream(queue) else None

    def consume(channel: Any) -> None:
        channel.basic_qos(prefetch_count=1)
        channel.basic_cancel(channel.basic_consume(queue, lambda *_: None, arguments=stream))

    yield "consume", consume
    if stream is None:
        yield "get", lambda channel: channel.basic_get(queue)
    yield "declare", lambda channel: channel.queue_declare(queue, durable=True, arguments=arguments)
    yield "delete", lambda channel: channel.queue_delete(queue)
    yield "purge", lambda channel: channel.queue_purge(queue)
    for exchange in (own, names.OLD_EXCHANGE, "amq.topic"):
        yield f"bind to {exchange}", lambda channel, exchange=exchange: channel.queue_bind(queue, exchange, "#")
        yield f"unbind from {exchange}", lambda channel, exchange=exchange: channel.queue_unbind(queue, exchange, "#")


def list_deeds_beside(role: str, party: str) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """What concerns no queue: the role against exchanges, its own and another party's."""
    own, theirs = names.exchange_of(role), names.exchange_of(party)
    yield "a queue of its own", lambda channel: channel.queue_declare("mine")
    yield "a nameless queue", lambda channel: channel.queue_declare("", exclusive=True)
    yield "an exchange", lambda channel: channel.exchange_declare("mine", "topic")
    for exchange in (own, theirs, names.OLD_EXCHANGE):
        declare = lambda channel, name=exchange: channel.exchange_declare(name, "fanout", durable=True)  # noqa: E731
        yield f"declare {exchange}", declare
        yield f"delete {exchange}", lambda channel, name=exchange: channel.exchange_delete(name)
    yield "bind its exchange behind another's", lambda channel: channel.exchange_bind(own, theirs, "#")
    yield "bind another's exchange behind its own", lambda channel: channel.exchange_bind(theirs, own, "#")
    spoofed = pika.BasicProperties(user_id=party)
    key = f"{MAIN_KEY[role]}.{role}.{EXPERIMENT}"
    yield "another's user id", lambda channel: channel.basic_publish(own, key, b"", spoofed)


def until_settled(broker: RealBroker) -> None:
    """Streams that were just made take messages only after a moment."""

    def settled() -> bool:
        try:
            with broker.admin() as admin:
                for entry in broker.definitions["queues"]:
                    admin.channel().queue_declare(entry["name"], passive=True)
        except exceptions.ChannelClosedByBroker:
            return False
        return True

    eventually(settled, what="every queue")
