"""What an operator does to a private node while it runs, by rabbitmqctl. (Test modules import this as `alarms`.)"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from brokers import PATIENCE

from deploy.broker.node import PrivateNode

CALM = "200MB"


def rabbitmqctl(node: PrivateNode, *arguments: str) -> str:
    """Run rabbitmqctl against the node (some seconds); CalledProcessError where it fails."""
    plan = json.loads((node.directory / "keeper.json").read_text())
    environment: dict[str, str] = plan["environment"]
    # those are the server's own: a second VM cannot listen on its distribution port
    for name in ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_DIST_PORT"):
        environment.pop(name, None)
    command = [str(Path(plan["server"][0]).with_name("rabbitmqctl")), "-n", environment["RABBITMQ_NODENAME"]]
    return subprocess.run(
        [*command, *arguments],
        env=environment,
        cwd=node.directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout


@contextlib.contextmanager
def disk_alarm(node: PrivateNode) -> Iterator[None]:
    """The node believes that its disk is full: it takes nothing from publishers."""
    rabbitmqctl(node, "set_disk_free_limit", "999999GB")
    try:
        yield
    finally:
        rabbitmqctl(node, "set_disk_free_limit", CALM)
