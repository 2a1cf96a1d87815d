"""Flower: a SuperLink and SuperNodes as processes of their own, over TLS.

Since 1.41 Flower's Fleet, Control and Runtime APIs are HTTP (httpx and uvicorn), no longer gRPC: there is no message
size to raise, since tensors travel as chunks of their own through SuperLink's object store.

What TUNED sets, and why (Flower's defaults, which STOCK keeps, stand beside it):

- FLWR_SUPEREXEC_TASK_POLL_INTERVAL 0.1 s (1): how often SuperLink and SuperNodes look for an app to start.
- FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE 16 MiB (5): a tensor travels in objects of that size.

In both: state in memory (no database), no run-time installation of dependencies, no telemetry, no look for updates.

What cannot be set: the ServerApp looks for replies every 3 s, a SuperNode without work looks for some every 3 s, and
each round starts a process at each client. So a round takes several seconds however small the model is.

TLS: on every connection to the SuperLink. Between a SuperNode and its own ClientApp, on one machine, it is plain: a
second TLS there would only cost. Flower has no client certificates, its SuperNodes sign their requests instead
(automatic node authentication).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.peers import environment
from benchmarks.peers.deployment import Deployment, free_ports, outcome, watch
from benchmarks.peers.deployment import environment as surroundings
from benchmarks.peers.work import TENSORS, Outcome, Work, completed, seconds_per_round
from deploy.broker.certificates import Authority

SIDE = environment.HERE / "sides" / "flower"
START_WITHIN = 60.0


TUNED = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1", "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(16 * 2**20)}
STOCK: dict[str, str] = {}


def measure(
    work: Work, folder: Path, say: Callable[[str], None], settings: Mapping[str, str] = MappingProxyType(TUNED)
) -> Outcome:
    """Deploy, run one app, end everything.

    Raises:
        KonsilError: what did not work, with the last words of the process concerned.
    """
    programs = environment.prepare("flower", say)
    authority = Authority(folder / "authority", "peers")
    identity = authority.issue_server_identity(["localhost", "127.0.0.1"])
    home = folder / "home"
    deployment = Deployment(
        folder,
        surroundings(
            programs,
            FLWR_HOME=str(home),
            FLWR_TELEMETRY_ENABLED="0",
            FLWR_DISABLE_UPDATE_CHECK="1",
            MALLOC_ARENA_MAX="4",
            **settings,
        ),
    )
    stamps = folder / "stamps"
    clients = [f"site-{number}" for number in range(1, work.clients + 1)]
    port, *own = free_ports(1 + work.clients)
    tls = ["--ssl-ca-certfile", str(authority.certificate)]
    tls += ["--ssl-certfile", str(identity.certificate), "--ssl-keyfile", str(identity.key)]
    app = _app(folder / "app", work, stamps)
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "bench"\n\n[superlink.bench]\n'
        f'address = "127.0.0.1:{port}"\nroot-certificates = "{authority.certificate}"\n'
    )
    try:
        say("Flower: starting a SuperLink and its SuperNodes")
        link = ["flower-superlink", "--host", "127.0.0.1", "--port", str(port), *tls]
        deployment.start("server", [*link, "--disable-runtime-dependency-installation"])
        deployment.wait(lambda: _answers(port), "answer of the SuperLink", START_WITHIN)
        for number, (client, at) in enumerate(zip(clients, own, strict=True), 1):
            node = ["flower-supernode", "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port", str(at)]
            node += ["--root-certificates", str(authority.certificate), "--node-config", f"site={number}"]
            deployment.start(client, node)
        logs = [folder / f"{client}.log" for client in clients]
        deployment.wait(
            lambda: all("SuperNode ID" in log.read_text(errors="replace") for log in logs), "SuperNodes", START_WITHIN
        )
        idle = deployment.sizes()
        say(f"Flower: {work.rounds} rounds of {work.megabytes:g} MB")
        with watch(deployment, lambda: completed(stamps)) as watched:
            deployment.once("run", ["flwr", "run", str(app), "bench", "--format", "json"], 60)
            deployment.wait(lambda: completed(stamps) >= work.rounds, "last round", work.within)
        spread = seconds_per_round(stamps, work)
    finally:
        deployment.end()
    return outcome(
        work,
        spread,
        idle,
        watched,
        system="flower-stock" if not settings else "flower",
        version=environment.version("flower"),
        transport="HTTP/1.1, TLS (server certificates, signed requests)",
    )


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


def _app(folder: Path, work: Work, stamps: Path) -> Path:
    shutil.copytree(SIDE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    run = {"rounds": work.rounds, "clients": work.clients, "tensors": TENSORS, "numbers": work.numbers}
    lines = [f"{name} = {json.dumps(value)}" for name, value in (run | {"stamps": str(stamps)}).items()]
    (folder / "pyproject.toml").write_text(
        f"""[project]
name = "null-app"
version = "1.0.0"
description = "null training"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "null_app:server"
clientapp = "null_app:client"

[tool.flwr.app.config]
{chr(10).join(lines)}
"""
    )
    return folder
