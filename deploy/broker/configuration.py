"""What a private node reads at its start: rabbitmq.conf, environment, definitions, and the keeper's plan."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.broker.certificates import Identity
from deploy.broker.definitions import Definitions
from deploy.broker.topology import MESSAGE_BYTES, channel_max
from messages import names

HOST = "127.0.0.1"

Logins = Literal["password", "certificate", "either"]
MECHANISMS: dict[Logins, tuple[str, ...]] = {
    "password": (),
    "certificate": ("EXTERNAL",),
    "either": ("EXTERNAL", "PLAIN"),
}
"""SASL mechanisms that a node offers (https://www.rabbitmq.com/docs/access-control); none: RabbitMQ's own choice."""
PLUGIN = "rabbitmq_auth_mechanism_ssl"
"""Comes with RabbitMQ: EXTERNAL, by the client's certificate."""

CIPHERS = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
)
"""What a node with TLS accepts, in its own order: the AEAD suites of TLS 1.3 (RFC 8446, section B.4), and of TLS 1.2
those with forward secrecy for an ECDSA key. AES first, for processors that do it themselves."""


SEND_TIMEOUT = "tcp_listen_options.send_timeout = 120000"
"""A chunk of 1 MiB has to leave within this; 15 s, the default, cuts lines of less than 0.6 Mbit/s."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a node, all on 127.0.0.1; `tls` is 0 where it speaks no TLS, `amqp` where it speaks TLS alone."""

    amqp: int
    distribution: int
    epmd: int
    tls: int = 0


@dataclass(frozen=True, slots=True)
class Tls:
    """What a node shows on its TLS port, and how clients come in there.

    Attributes:
        asks_clients: whether it lets nobody in without a certificate of the same authority.
        logins: by which clients say who they are: the name in their certificate, a password, or either.
    """

    ca: Path
    server: Identity
    asks_clients: bool = False
    logins: Logins = "password"


def write_configuration(
    home: Path, ports: Ports, server: Path, epmd: Path, *, definitions: Definitions | None, log: Path, tls: Tls | None
) -> None:
    """Write everything that the node reads at its start, below `home`.

    Args:
        server, epmd: the programs.
        definitions: None keeps what an earlier start wrote.
        log: the server's log file.
        tls: None: the node speaks plain AMQP alone.
    """
    for folder in ("data", "log", "home"):
        (home / folder).mkdir(exist_ok=True)
    (home / "conf-env").write_text("")
    (home / "enabled_plugins").write_text(plugins_text("password" if tls is None else tls.logins))
    # A bare machine may have no /etc/hosts, so no "localhost" (ERTS user's guide, "Inet configuration").
    (home / "inetrc").write_text('{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n')
    definitions_file = home / "definitions.json"
    if definitions is not None:
        write_private(definitions_file, json.dumps(definitions))
    lines = [
        "listeners.tcp = none" if ports.tls == ports.amqp else f"listeners.tcp.1 = {HOST}:{ports.amqp}",
        "disk_free_limit.absolute = 200MB",
        "tcp_listen_options.backlog = 128",
        "tcp_listen_options.nodelay = true",
        "tcp_listen_options.sndbuf = 1048576",
        "tcp_listen_options.recbuf = 1048576",
        SEND_TIMEOUT,
        *limit_lines(_count_sites(definitions_file)),
        "log.console = false",
        "log.file.level = info",
    ]
    if tls is not None:
        lines += [f"listeners.ssl.1 = {HOST}:{ports.tls}", *tls_lines(tls)]
    if definitions_file.exists():
        lines += definitions_lines(definitions_file, version_of(server))
    (home / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
    environment = {
        "PATH": f"{epmd.parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home / "home"),
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_INETRC": str(home / "inetrc"),
        # run the VM in place of the shell, so that one process id stands for the server
        "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_NODENAME": f"konsil-{ports.amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "conf-env"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_LOGS": str(log),
        "RABBITMQ_PID_FILE": str(home / "data" / "server.pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-noinput +B i +S 2:2 +SDcpu 1:1 +SDio 4 +sbwt none +sbwtdcpu none +sbwtdio none "
            "-kernel inet_dist_use_interface {127,0,0,1}"
        ),
    }
    plan = {
        "epmd": [str(epmd), "-port", str(ports.epmd), "-address", HOST],
        "server": [str(server)],
        "environment": environment,
    }
    write_private(home / "keeper.json", json.dumps(plan, indent=1))


def limit_lines(sites: int) -> list[str]:
    """rabbitmq.conf for the bounds on what one connection may ask for, in a consortium of so many sites."""
    return [f"max_message_size = {MESSAGE_BYTES}", f"channel_max = {channel_max(sites)}"]


def _count_sites(definitions: Path) -> int:
    """How many sites a definitions file knows; 0 where there is none: it is a node without a consortium."""
    if not definitions.exists():
        return 0
    queues = [one["name"] for one in json.loads(definitions.read_text())["queues"]]
    return sum(queue.startswith(names.update_queue("")) for queue in queues)


def tls_lines(tls: Tls) -> list[str]:
    """rabbitmq.conf for TLS and logins, but for the port (https://www.rabbitmq.com/docs/ssl).

    `tcp_listen_options` hold for TLS too. Where no certificate is asked of clients, the node does not look at one. A
    client that shows one shows a good one, or is not let in, whatever it logs in by.
    """
    looks = tls.asks_clients or tls.logins != "password"
    must_show = tls.asks_clients or tls.logins == "certificate"
    lines = [
        f"ssl_options.cacertfile = {tls.ca}",
        f"ssl_options.certfile = {tls.server.certificate}",
        f"ssl_options.keyfile = {tls.server.key}",
        f"ssl_options.verify = verify_{'peer' if looks else 'none'}",
        f"ssl_options.fail_if_no_peer_cert = {'true' if must_show else 'false'}",
        "ssl_options.honor_cipher_order = true",
        "ssl_options.versions.1 = tlsv1.3",
        "ssl_options.versions.2 = tlsv1.2",
        *(f"ssl_options.ciphers.{number} = {cipher}" for number, cipher in enumerate(CIPHERS, start=1)),
    ]
    offered = enumerate(MECHANISMS[tls.logins], start=1)
    lines += [f"auth_mechanisms.{number} = {mechanism}" for number, mechanism in offered]
    return lines + (["ssl_cert_login_from = common_name"] if tls.logins != "password" else [])


def plugins_text(logins: Logins) -> str:
    """RabbitMQ's file of enabled plugins."""
    return "[].\n" if logins == "password" else f"[{PLUGIN}].\n"


def write_private(path: Path, text: str) -> None:
    """A file of mode 0600, in place of what was there."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def definitions_lines(file: Path, version: tuple[int, ...]) -> list[str]:
    """How a node loads its definitions at boot.

    A restarted RabbitMQ 4 that imports bindings of streams that it has does not boot, since they are not recovered yet
    (rabbitmq-server issue 14772; seen with 4.0.5). So it imports only what changed since; a wiped node knows of nothing
    and imports all. 3.10 imports at each start, which also brings back streams that a kill within seconds of their
    making lost.
    """
    if version < (4,):
        return [f"load_definitions = {file}"]
    return [
        "definitions.import_backend = local_filesystem",
        f"definitions.local.path = {file}",
        "definitions.skip_if_unchanged = true",
    ]


def version_of(server: Path) -> tuple[int, ...]:
    """A server's version off its path, …/rabbitmq_server-3.10.8/sbin/rabbitmq-server; empty where it names none."""
    words = server.parent.parent.name.rpartition("-")[2].split(".")
    return tuple(int(word) for word in words if word.isdigit())
