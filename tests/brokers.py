"""A real broker for tests, and waiting on conditions. (Test modules import this as `brokers`.)"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pika
import pika.exceptions
import pytest
from needs import lacks

from deploy.broker.definitions import Definitions, password_hash, render_definitions
from deploy.broker.node import PrivateNode, find_server
from deploy.broker.topology import Party
from messages.bus.amqp.link import Backoff
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Body, Confirm
from messages.ground.errors import Unreachable
from messages.ground.settings import BrokerAddress

VHOST = "test"
ADMIN = "admin"
PARTIES = (
    Party("coordinator", "coordinator", "pw-coordinator"),
    Party("site-a", "site", "pw-site-a"),
    Party("site-b", "site", "pw-site-b"),
    Party("site-c", "site", "pw-site-c"),
    Party("dr-a", "researcher", "pw-dr-a"),
    Party("auditor", "auditor", "pw-auditor"),
    Party("viewer", "viewer", "pw-viewer"),
)


def consortium_definitions(parties: tuple[Party, ...] = PARTIES, *, old_exchange: bool = False) -> Definitions:
    """Definitions of the consortium `test`; passwords are "pw-NAME"."""
    return render_definitions(VHOST, parties, old_exchange=old_exchange)


def with_admin(definitions: Definitions) -> Definitions:
    """The same, with a user who may do everything."""
    user = {
        "name": ADMIN,
        "password_hash": password_hash(f"pw-{ADMIN}"),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "administrator",
        "limits": {},
    }
    permission = {"user": ADMIN, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"}
    return definitions | {
        "users": [*definitions["users"], user],
        "permissions": [*definitions["permissions"], permission],
    }


PATIENCE = 120.0
"""Seconds that a test waits for what is to come. A machine that is busy with other work takes ten times what an idle
one takes, and may stand still for seconds; only a test that fails waits so long."""


def eventually(condition: Callable[[], Any], within: float = PATIENCE, what: str = "condition") -> Any:
    """Wait until `condition()` is truthy and return it; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not (result := condition()):
        if time.monotonic() > deadline:
            if result := condition():  # this process may have stood still since it last looked
                break
            pytest.fail(f"{what} did not come true within {within:.0f} s")
        time.sleep(0.005)
    return result


class NotedBus(RabbitBus):
    """A bus that says what it publishes."""

    noted: Callable[[str], None]

    def publish(self, key: str, body: Body) -> Confirm:
        """Send one message; its key is noted first."""
        self.noted(key)
        return super().publish(key, body)


@dataclass
class RealBroker:
    """A running private node with the consortium `test`, whose users' passwords are "pw-NAME".

    To renew a stream costs the node as much as many a test: so it is known which queues may hold something. Whoever
    asked for the node, for an address or for an administrator's connection may have written to any.
    """

    _node: PrivateNode
    definitions: Definitions
    _buses: list[RabbitBus] = field(default_factory=list)
    _admin: pika.BlockingConnection | None = None
    _used: set[str] = field(default_factory=set)
    """Queues that may hold something, or may be gone."""
    _takers: dict[str, set[str]] = field(default_factory=dict)

    @property
    def node(self) -> PrivateNode:
        """The node, for whoever does more with it than to use a bus."""
        self._used |= self._every_queue()
        return self._node

    def start(self) -> None:
        """Start the node where it is not running: a test before may have stopped it."""
        if self._node.pid is None:
            self._node.start()

    def address(
        self, user: str, *, password: str | None = None, vhost: str = VHOST, tls: bool = False
    ) -> BrokerAddress:
        """Where and how `user` logs in."""
        self._used |= self._every_queue()
        return self._address_of(user, password=password, vhost=vhost, tls=tls)

    def _address_of(
        self, user: str, *, password: str | None = None, vhost: str = VHOST, tls: bool = False
    ) -> BrokerAddress:
        return BrokerAddress.model_validate(
            {
                "host": self._node.host,
                "port": self._node.tls_port if tls else self._node.port,
                "ca": self._node.ca if tls else None,
                "vhost": vhost,
                "user": user,
                "password": f"pw-{user}" if password is None else password,
                "heartbeat_seconds": 5,
            }
        )

    def bus(self, user: str, *, tls: bool = False, **options: Any) -> RabbitBus:
        """A connected bus, closed when the test ends (where the test uses `clean_broker`)."""
        options = {"backoff": Backoff(first=0.2, most=1.0), "verify_within": 1.0, "idle": 3.0} | options
        options.setdefault("chunks_verify_within", options["verify_within"])
        bus = NotedBus(self._address_of(user, tls=tls), user, **options)
        bus.noted = self._note_key
        self._buses.append(bus)
        bus.connect(PATIENCE)
        return bus

    def close_buses(self) -> None:
        """Close every bus that this object handed out."""
        while self._buses:
            self._buses.pop().close()

    def admin(self) -> pika.BlockingConnection:
        """A connection that may do everything in the vhost."""
        self._used |= self._every_queue()
        return self._connect_admin()

    def _connect_admin(self) -> pika.BlockingConnection:
        credentials = pika.PlainCredentials(ADMIN, f"pw-{ADMIN}")
        parameters = pika.ConnectionParameters(self._node.host, self._node.port, VHOST, credentials)
        return pika.BlockingConnection(parameters)

    def delete(self, queue: str) -> None:
        """Delete a queue, and leave it so until `wipe` declares it again."""
        self._used.add(queue)
        with self._connect_admin() as admin:
            admin.channel().queue_delete(queue)

    def wipe(self, *queues: str) -> None:
        """Delete queues (default: all that may hold something) and declare and bind them again, empty."""
        try:
            self._wipe(queues)
        finally:
            self.close_admin()

    def _every_queue(self) -> set[str]:
        return {queue["name"] for queue in self.definitions["queues"]}

    def _note_key(self, key: str) -> None:
        """Queues that take this key from any exchange."""
        if key not in self._takers:
            bindings = self.definitions["bindings"]
            self._takers[key] = {one["destination"] for one in bindings if _takes(one["routing_key"], key)}
        self._used |= self._takers[key]

    def _wipe(self, queues: tuple[str, ...]) -> None:
        for queue in self.definitions["queues"]:
            if queue["name"] in (queues or self._used):
                # after a hard restart a stream may need some seconds until it can even be deleted
                eventually(lambda queue=queue: self._renew(queue), what=f"deleting {queue['name']}")
        if not queues:
            self._used.clear()

    def _renew(self, queue: dict[str, Any]) -> bool:
        name = queue["name"]
        if self._admin is None or self._admin.is_closed:
            self._admin = self._connect_admin()
        channel = self._admin.channel()
        try:
            channel.queue_delete(name)  # of one that is not there is no error
            channel.queue_declare(name, durable=True, arguments=queue["arguments"])
            for binding in self.definitions["bindings"]:
                if binding["destination"] == name:
                    channel.queue_bind(name, binding["source"], binding["routing_key"])
        except pika.exceptions.ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def close_admin(self) -> None:
        """Close the connection that wiped."""
        admin, self._admin = self._admin, None
        if admin is not None and admin.is_open:
            admin.close()


def _takes(pattern: str, key: str) -> bool:
    """Whether a binding takes a key; `*` stands for one word."""
    ours, theirs = pattern.split("."), key.split(".")
    return len(ours) == len(theirs) and all(one in ("*", other) for one, other in zip(ours, theirs, strict=True))


def need_broker() -> None:
    """Skip on a desk without RabbitMQ, fail in CI."""
    try:
        find_server()
    except Unreachable as error:
        lacks(str(error))
