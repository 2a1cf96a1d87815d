"""RabbitMQ definitions of a consortium: vhost, users, permissions, exchange, queues, bindings (3.10 to 4.x).

Loaded by the broker at boot (`load_definitions` in rabbitmq.conf), so that a wiped broker comes back whole and
no service declares anything. Format: https://www.rabbitmq.com/docs/definitions
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from messages import kinds, names
from messages.ground.errors import RequestError
from messages.ground.naming import EXPERIMENT_PATTERN, NAME_PATTERN

Definitions = dict[str, Any]

ROLES = ("coordinator", "site", "researcher", "auditor")
RESEARCHER_KINDS = tuple(sorted(kind for kind, spec in kinds.KINDS.items() if "researcher" in spec.senders))


@dataclass(frozen=True, slots=True)
class Party:
    """One login of the consortium; `role` is one of `ROLES`."""

    name: str
    role: str
    password: str

    def __post_init__(self) -> None:
        names.check_name(self.name, self.role)
        if self.role not in ROLES:
            raise RequestError(f"role {self.role!r} does not exist", advice=f"Use one of {', '.join(ROLES)}")
        if (self.role == "coordinator") != (self.name == names.COORDINATOR):
            raise RequestError(
                f"{self.name!r} cannot be a {self.role}",
                advice="The coordinator, and only the coordinator, is named 'coordinator'",
            )


@dataclass(frozen=True, slots=True)
class StreamSizes:
    """How much each stream keeps, in bytes; retention drops whole segments, so a stream may hold one more.

    `model_chunks` bounds `global` and `models` each; `update_chunks` bounds each site's `update.<site>`.
    `progress_age` is RabbitMQ's notation (D, h, m, s).
    """

    events: int = 2 * 2**30
    audit: int = 8 * 2**30
    model_chunks: int = 8 * 2**30
    update_chunks: int = 4 * 2**30
    progress: int = 64 * 2**20
    progress_age: str = "1h"
    inbox: int = 64 * 2**20
    segment: int = 64 * 2**20
    small_segment: int = 16 * 2**20


def password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's salted SHA-256: base64(salt ‖ SHA-256(salt ‖ UTF-8 password)), salt of 4 bytes."""
    salt = os.urandom(4) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def render_definitions(
    consortium: str,
    parties: Sequence[Party],
    sizes: StreamSizes = StreamSizes(),
    routes: Mapping[str, str] | None = None,
) -> Definitions:
    """The definitions of one consortium; the vhost is named after it.

    Args:
        routes: event kind → "downlink", "uplink", "global", "update", "audit", "models", "progress" or "inbox";
            default: `messages.kinds.ROUTES`.

    Raises:
        RequestError: a name outside the grammar, a name twice, or not exactly one coordinator.
    """
    names.check_name(consortium, "consortium")
    known = [party.name for party in parties]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise RequestError(f"name {twice[0]!r} is given twice", advice="Every party needs a name of its own")
    if names.COORDINATOR not in known:
        raise RequestError("there is no coordinator", advice="Add the party 'coordinator'")
    sites = [party.name for party in parties if party.role == "site"]
    with_inbox = [party.name for party in parties if party.role != "auditor"]
    routes = kinds.ROUTES if routes is None else routes
    return {
        "rabbit_version": "3.10.0",
        "vhosts": [{"name": consortium}],
        "users": [
            {
                "name": party.name,
                "password_hash": password_hash(party.password),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
                "limits": {},
            }
            for party in parties
        ],
        "permissions": [
            {
                "user": party.name,
                "vhost": consortium,
                "configure": "^$",
                "write": "^$" if party.role == "auditor" else f"^{names.EXCHANGE}$",
                "read": f"^({'|'.join(_readable_queues(party, sites))})$",
            }
            for party in parties
        ],
        "topic_permissions": [
            {
                "user": party.name,
                "vhost": consortium,
                "exchange": names.EXCHANGE,
                "write": _writable_exchange(party),
                "read": "^$",
            }
            for party in parties
        ],
        "exchanges": [
            {
                "name": names.EXCHANGE,
                "vhost": consortium,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
        ],
        "queues": [
            {"name": name, "vhost": consortium, "durable": True, "auto_delete": False, "arguments": arguments}
            for name, arguments in _list_queues(sites, with_inbox, sizes)
        ],
        "bindings": [
            {
                "source": names.EXCHANGE,
                "vhost": consortium,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": pattern,
                "arguments": {},
            }
            for queue, pattern in _list_bindings(routes, sites, with_inbox)
        ],
        "parameters": [],
        "global_parameters": [],
        "policies": [],
    }


def merge_definitions(several: Iterable[Definitions]) -> Definitions:
    """One definitions object out of several consortia's; a user that occurs twice keeps the first password."""
    merged: Definitions = {}
    for one in several:
        for section, entries in one.items():
            if isinstance(entries, list):
                have = merged.setdefault(section, [])
                taken = {entry["name"] for entry in have} if section in ("users", "vhosts") else set()
                have += [entry for entry in entries if entry.get("name") not in taken]
            else:
                merged.setdefault(section, entries)
    return merged


def _readable_queues(party: Party, sites: Sequence[str]) -> list[str]:
    own = rf"inbox\.{party.name}"
    if party.role == "coordinator":
        # It reads back what it alone can publish again: a loss of these is seen by nobody else.
        own_word = ["downlink", "audit", "models"]
        return ["uplink", "progress", own, *own_word, *(rf"update\.{site}" for site in sites)]
    if party.role == "site":
        return ["downlink", "global", "progress", own]
    if party.role == "researcher":
        return ["downlink", "progress", "audit", "models", own]
    return ["audit", "models"]


def _writable_exchange(party: Party) -> str:
    if party.role == "auditor":
        return "^$"
    kind = f"({'|'.join(RESEARCHER_KINDS)})" if party.role == "researcher" else NAME_PATTERN
    return rf"^{kind}\.{party.name}\.{EXPERIMENT_PATTERN}(\.{NAME_PATTERN})?$"


def _list_queues(
    sites: Sequence[str], with_inbox: Sequence[str], sizes: StreamSizes
) -> Iterable[tuple[str, dict[str, Any]]]:
    def stream(length: int, segment: int, **more: str) -> dict[str, Any]:
        return {
            "x-queue-type": "stream",
            "x-max-length-bytes": length,
            "x-stream-max-segment-size-bytes": segment,
            **more,
        }

    yield names.DOWNLINK, stream(sizes.events, sizes.small_segment)
    yield names.UPLINK, stream(sizes.events, sizes.small_segment)
    yield names.AUDIT, stream(sizes.audit, sizes.segment)
    yield names.GLOBAL, stream(sizes.model_chunks, sizes.segment)
    yield names.MODELS, stream(sizes.model_chunks, sizes.segment)
    yield (
        names.PROGRESS,
        stream(sizes.progress, sizes.small_segment, **{"x-max-age": sizes.progress_age}),
    )
    for site in sites:
        yield names.update_queue(site), stream(sizes.update_chunks, sizes.segment)
    for name in with_inbox:
        yield names.inbox_of(name), {"x-queue-type": "classic", "x-max-length-bytes": sizes.inbox}


def _list_bindings(
    routes: Mapping[str, str], sites: Sequence[str], with_inbox: Sequence[str]
) -> Iterable[tuple[str, str]]:
    """(queue, pattern) for every kind; an addressee's inbox takes every kind that names it as fourth word."""
    for kind, route in sorted(routes.items()):
        if route in (names.DOWNLINK, names.GLOBAL, names.AUDIT, names.MODELS):
            yield route, f"{kind}.{names.COORDINATOR}.*"
        elif route in (names.UPLINK, names.PROGRESS):
            yield route, f"{kind}.*.*"
        elif route == "update":
            for site in sites:
                yield names.update_queue(site), f"{kind}.{site}.*"
        elif route != "inbox":
            raise RequestError(f"kind {kind!r} has no such route: {route!r}")
    for name in with_inbox:
        yield names.inbox_of(name), f"*.*.*.{name}"
