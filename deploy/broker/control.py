"""What a private node is told while it runs, by its own rabbitmqctl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from deploy.broker.definitions import Definitions
from deploy.broker.node import PrivateNode
from messages.ground.errors import WorkFailed

WITHIN = 120.0
"""Seconds for one command: it starts a virtual machine of its own."""


def run_command(node: PrivateNode, *arguments: str) -> str:
    """Run rabbitmqctl against a private node; returns what it says.

    Raises:
        WorkFailed: it fails, or takes too long.
    """
    plan = json.loads((node.directory / "keeper.json").read_text())
    environment: dict[str, str] = dict(plan["environment"])
    # Those are the server's own: a second VM cannot listen on its distribution port.
    for name in ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_DIST_PORT"):
        environment.pop(name, None)
    program = str(Path(plan["server"][0]).with_name("rabbitmqctl"))
    command = [program, "-n", environment["RABBITMQ_NODENAME"], "-q", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, cwd=node.directory, capture_output=True, text=True, timeout=WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkFailed(f"rabbitmqctl {arguments[0]} did not come to its end", where=str(error)[:200]) from None
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise WorkFailed(
            f"rabbitmqctl {arguments[0]} failed", where=str(node.directory), advice=said[0][:300] if said else ""
        )
    return done.stdout


def load_definitions(node: PrivateNode) -> None:
    """Have a running node take on what its definitions file says now; what it has beside that stays.

    RabbitMQ says nothing of a binding that it drops since the stream is not up yet, as at a boot (seen with 3.10.8 and
    4.0.5). So the bindings are looked at, and the file is loaded again while one is missing.

    Raises:
        WorkFailed: rabbitmqctl fails, or some binding is never made.
    """
    file = node.directory / "definitions.json"
    deadline = time.monotonic() + WITHIN
    while True:
        run_command(node, "import_definitions", str(file))
        missing = list_missing_bindings(node, json.loads(file.read_text()))
        if not missing:
            return
        if time.monotonic() > deadline:
            raise WorkFailed(f"{len(missing)} bindings are not made, among them {missing[0]}", where=str(file))


def list_missing_bindings(node: PrivateNode, definitions: Definitions) -> list[str]:
    """The bindings of the definitions that a running node does not have."""
    missing = []
    for vhost in [one["name"] for one in definitions["vhosts"]]:
        there = run_command(node, "list_bindings", "-p", vhost, "source_name", "destination_name", "routing_key")
        wanted = ("\t".join((one["source"], one["destination"], one["routing_key"])) for one in definitions["bindings"])
        missing += sorted(set(wanted) - set(there.splitlines()))
    return missing


def remove_strangers(node: PrivateNode) -> None:
    """Take away the logins that a running node has and its definitions have no more: who was removed while it stood."""
    users = json.loads((node.directory / "definitions.json").read_text())["users"]
    there = {line.split("\t")[0] for line in run_command(node, "list_users", "--no-table-headers").splitlines()}
    remove_users(node, sorted(there - {one["name"] for one in users}))


def remove_users(node: PrivateNode, users: Iterable[str]) -> None:
    """Take logins away from a running node: it ends their connections. Their queues stay, for whoever reads them."""
    for user in users:
        run_command(node, "delete_user", user)
