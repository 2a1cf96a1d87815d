"""A private node starts, comes back, and leaves nothing behind (deploy.broker.node)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from brokers import RealBroker, eventually

from deploy.broker import keeper, node
from messages.ground.errors import RequestError, Unreachable

OWNER = """
import os, sys, time
from pathlib import Path
from deploy.broker.node import PrivateNode
node = PrivateNode(Path(sys.argv[1]))
node.start()
print(node.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.broker
def test_nothing_outlives_an_owner_that_is_killed(broker: RealBroker, tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "node")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
    family = [pid, *keeper.list_descendants(pid)]
    names = set()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # the server starts some for a moment, to look at the disk
            names.add(psutil.Process(one).name())
    assert {"epmd", "beam.smp"} <= names
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    eventually(lambda: not any(psutil.pid_exists(one) for one in family), what="the end of the whole family")


@pytest.mark.broker
def test_a_port_in_use_is_one_clear_line(broker: RealBroker, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"port {port} cannot be used"):
            node.PrivateNode(tmp_path, port).start()


@pytest.mark.broker
def test_a_second_start_in_the_same_folder_is_refused(broker: RealBroker) -> None:
    with pytest.raises(RequestError, match="already runs"):
        node.PrivateNode(broker.node.directory).start()


@pytest.mark.broker
def test_the_node_listens_on_loopback_only(broker: RealBroker) -> None:
    pids = keeper.list_descendants(broker.node.pid or 0)
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_a_missing_rabbitmq_comes_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(node, "SERVER_ROOTS", (tmp_path,))
    monkeypatch.delenv("RABBITMQ_HOME", raising=False)
    with pytest.raises(Unreachable, match="apt-get install rabbitmq-server"):
        node.find_server()


def test_descendants_are_found_below_a_process() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in keeper.list_descendants(os.getpid())
    finally:
        child.kill()
        child.wait()
