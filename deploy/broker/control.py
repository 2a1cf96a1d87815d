"""What a private node is told while it runs, by its own rabbitmqctl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

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
    """Have a running node take on what its definitions file says now; what it has beside that stays."""
    run_command(node, "import_definitions", str(node.directory / "definitions.json"))


def remove_users(node: PrivateNode, users: Iterable[str]) -> None:
    """Take logins away from a running node: it ends their connections. Their queues stay, for whoever reads them."""
    for user in users:
        run_command(node, "delete_user", user)
