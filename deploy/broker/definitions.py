"""RabbitMQ definitions of a consortium: vhost, users, permissions, exchanges, queues, bindings (3.10 to 4.x).

Loaded by the broker at boot (`load_definitions` in rabbitmq.conf), so that a wiped broker comes back whole and
no service declares anything. Format: https://www.rabbitmq.com/docs/definitions
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deploy.broker.topology import Party, StreamSizes, Topology
from messages import names
from messages.ground.errors import RequestError

Definitions = dict[str, Any]

PARAMETER = "konsil_topology"
"""Global parameter that says which topology a consortium has: `rabbitmqctl list_global_parameters`."""


def password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's salted SHA-256: base64(salt ‖ SHA-256(salt ‖ UTF-8 password)), salt of 4 bytes."""
    salt = os.urandom(4) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def render_definitions(
    consortium: str,
    parties: Sequence[Party],
    sizes: StreamSizes = StreamSizes(),
    *,
    old_exchange: bool = False,
) -> Definitions:
    """The definitions of one consortium; the vhost is named after it.

    Args:
        old_exchange: keep the exchange that all share in topology 1, for parties of 0.1.

    Raises:
        RequestError: a name outside the grammar, a name twice, or not exactly one coordinator.
    """
    names.check_name(consortium, "consortium")
    known = [party.name for party in parties]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise RequestError(f"name {twice[0]!r} is given twice", advice="Every party needs a name of its own")
    if names.COORDINATOR not in known:
        raise RequestError("there is no coordinator", advice="Add the party 'coordinator'")
    topology = Topology(parties, sizes, old_exchange)
    return {
        "rabbit_version": "3.10.0",
        "vhosts": [{"name": consortium}],
        "users": [
            {
                "name": party.name,
                "password_hash": party.password_hash or (password_hash(party.password) if party.password else ""),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
                "limits": topology.limits_for(party),
            }
            for party in parties
        ],
        "permissions": [
            {
                "user": party.name,
                "vhost": consortium,
                "configure": "^$",
                "write": _any_of(topology.exchanges_for(party)),
                "read": _any_of(topology.queues_for(party)),
            }
            for party in parties
        ],
        "topic_permissions": [
            {
                "user": party.name,
                "vhost": consortium,
                "exchange": exchange,
                "write": topology.keys_for(party),
                "read": "^$",
            }
            for party in parties
            for exchange in topology.exchanges_for(party)
        ],
        "exchanges": [
            {
                "name": name,
                "vhost": consortium,
                "type": "topic",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name in topology.list_exchanges()
        ],
        "queues": [
            {"name": name, "vhost": consortium, "durable": True, "auto_delete": False, "arguments": arguments}
            for name, arguments in topology.list_queues()
        ],
        "bindings": [
            {
                "source": exchange,
                "vhost": consortium,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": pattern,
                "arguments": {},
            }
            for exchange, queue, pattern in topology.list_bindings()
        ],
        "parameters": [],
        "global_parameters": [
            {"name": f"{PARAMETER}.{consortium}", "value": {"number": names.TOPOLOGY, "old_exchange": old_exchange}}
        ],
        "policies": [],
    }


def _any_of(those: Iterable[str]) -> str:
    """A pattern that takes these names and nothing else; none of them: nothing at all."""
    listed = [name.replace(".", r"\.") for name in those]
    return f"^({'|'.join(listed)})$" if listed else "^$"


def keeps_old_exchange(file: Path) -> bool:
    """Whether a definitions file, as an earlier run wrote it, has the exchange that all share in topology 1.

    False where there is no such file: who begins now needs none.
    """
    try:
        plain = json.loads(file.read_text())
        writes = [str(one["write"]) for one in plain["permissions"]]
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, KeyError, TypeError):
        raise RequestError(
            "this is not a file of definitions that 'konsil broker' wrote",
            where=str(file),
            advice="Move it away, or say --old-exchange or --no-old-exchange",
        ) from None
    return any(one.startswith((f"^{names.OLD_EXCHANGE}$", f"^({names.OLD_EXCHANGE}|")) for one in writes)


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
