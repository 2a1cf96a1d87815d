"""What a consortium's RabbitMQ reads: definitions, rabbitmq.conf, plugins, its certificate; and what it is told.

TLS alone, and clients known by their certificates. Where a party logs in by password, the node takes either, and asks
for a certificate of nobody who shows none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.broker import configuration, control
from deploy.broker.certificates import Authority, Identity
from deploy.broker.configuration import Logins, Tls
from deploy.broker.definitions import Definitions, render_definitions
from deploy.broker.node import PrivateNode
from deploy.broker.topology import Party
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.trust.register import Role

PLACE = Path("/etc/rabbitmq")
"""Where the files lie at the broker, as rabbitmq.conf names them."""
DEFINITIONS, SERVER, SERVER_KEY = "definitions.json", "server.pem", "server.key"
NODE = "node"
"""Beside it, the private node on which an operator tries the consortium on one machine."""


@dataclass(frozen=True, slots=True)
class BrokerFolder:
    """The folder `broker/` of the operator's, as a node of this machine reads it."""

    folder: Path

    @property
    def definitions(self) -> Definitions:
        plain: Definitions = json.loads((self.folder / DEFINITIONS).read_text())
        return plain

    def open_node(self, port: int) -> PrivateNode:
        """The private node of this consortium, started or not."""
        identity = Identity(self.folder / SERVER, self.folder / SERVER_KEY)
        secured = Tls(self.folder / "ca.pem", identity, logins=logins_of(self.definitions))
        return PrivateNode(
            self.folder.parent / NODE, port, definitions=self.definitions, detached=True, secured=secured
        )


def logins_of(definitions: Definitions) -> Logins:
    """By certificate alone, as long as nobody has a password."""
    return "either" if any(one["password_hash"] for one in definitions["users"]) else "certificate"


def write_broker(
    folder: Path, consortium: str, members: Sequence[tuple[str, Role]], passwords: Mapping[str, str], port: int
) -> None:
    """Write what follows from who is let in.

    Args:
        passwords: party → RabbitMQ's hash of its password, of those that log in by one.
        port: on which RabbitMQ speaks TLS, the only one.
    """
    parties = [Party(name, role, password_hash=passwords.get(name, "")) for name, role in members]
    definitions = render_definitions(consortium, parties)
    text = "\n".join(_conf_lines(definitions, port, sum(role == "site" for _name, role in members)))
    _write(folder / DEFINITIONS, json.dumps(definitions, indent=1) + "\n", 0o600)
    _write(folder / "rabbitmq.conf", text + "\n", 0o644)
    _write(folder / "enabled_plugins", configuration.plugins_text(logins_of(definitions)), 0o644)


def _conf_lines(definitions: Definitions, port: int, sites: int) -> list[str]:
    secured = Tls(PLACE / "ca.pem", Identity(PLACE / SERVER, PLACE / SERVER_KEY), logins=logins_of(definitions))
    return [
        "# Written by konsil provision. Konsil's RabbitMQ speaks TLS alone and knows parties by their certificates.",
        "listeners.tcp = none",
        f"listeners.ssl.default = {port}",
        *configuration.tls_lines(secured),
        configuration.SEND_TIMEOUT,
        "disk_free_limit.absolute = 1GB",
        *configuration.limit_lines(sites),
        "# RabbitMQ 3.x:",
        *configuration.definitions_lines(PLACE / DEFINITIONS, (3,)),
        "# RabbitMQ 4.x, in place of the line above:",
        *(f"# {line}" for line in configuration.definitions_lines(PLACE / DEFINITIONS, (4,))),
    ]


def write_server(folder: Path, authority: Authority, hosts: Sequence[str], *, again: bool = False) -> None:
    """The broker's certificate and the authority's beside it.

    Args:
        again: make a new one, however long the one that is there lasts.
    """
    _write(folder / "ca.pem", authority.certificate.read_text(), 0o644)
    if again:
        (folder / SERVER).unlink(missing_ok=True)
    authority.issue_server_identity(hosts, folder=folder)


def tell_node(node: PrivateNode, gone: Sequence[str] = ()) -> bool:
    """Have a running private node take on the new definitions; whether one runs.

    Args:
        gone: logins to take away, whose connections end.
    """
    if not node.directory.exists():
        return False
    configuration.write_private(node.directory / DEFINITIONS, json.dumps(node.definitions))
    if node.pid is None:
        return False
    control.remove_users(node, gone)
    if not gone:
        control.load_definitions(node)
    return True


def commands_for(gone: Sequence[str] = ()) -> list[str]:
    """What the broker's administrator types after the operator's files changed."""
    if not gone:
        return [f"rabbitmqctl import_definitions {PLACE / DEFINITIONS}"]
    return [
        line
        for name in gone
        for line in (f"rabbitmqctl delete_user {name}", f"rabbitmqctl close_all_user_connections {name} revoked")
    ]


def _write(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, text.encode(), mode=mode)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None
