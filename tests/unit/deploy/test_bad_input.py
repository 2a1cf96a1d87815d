"""Mistakes of those who write the files: one line that says where and what, the exit status, nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import PATIENCE
from places import ROOT

COORDINATOR = """schema = 1
[coordinator]
consortium = "glioma"
state = "state"
sites = ["site-a"]
researchers = ["dr-a"]
[broker]
port = {port}
vhost = "glioma"
user = "coordinator"
password = "{password}"
"""


def konsil(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the command as a person does; its exit status and what it said on standard error."""
    finished = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return finished.returncode, [line for line in finished.stderr.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sites = [", "sites = ", "is not valid TOML"),
        ("vhost", "vhots", "key 'broker.vhots' is unknown"),
        ('"{password}"', '"file:nowhere"', "nowhere (No such file or directory). Check the path and its permissions"),
        ("consortium = ", "# ", "key 'coordinator.consortium' is missing"),
    ],
)
def test_a_coordinators_file_that_is_wrong_is_told_in_one_line_with_status_2(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    (tmp_path / "coordinator.toml").write_text(COORDINATOR.replace(old, new).replace("{port}", "5672"))
    status, lines = konsil(tmp_path, "coordinator", "run", "--config", "coordinator.toml")
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("konsil: ")
    assert said in lines[0]


def test_a_broker_that_is_down_when_the_coordinator_starts_is_status_3(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        port = free.getsockname()[1]
        (tmp_path / "coordinator.toml").write_text(COORDINATOR.format(port=port, password="p"))
        status, lines = konsil(tmp_path, "coordinator", "run", "--config", "coordinator.toml")
    assert (status, len(lines)) == (3, 1)
    assert f"127.0.0.1:{port}" in lines[0]
    assert "not reachable" in lines[0]


@pytest.mark.parametrize("command", [["coordinator", "run", "--config"], ["site", "run", "--config"]])
def test_a_file_that_is_not_there_is_status_2(tmp_path: Path, command: list[str]) -> None:
    status, lines = konsil(tmp_path, *command, "missing.toml")
    assert status == 2
    assert lines == [
        "konsil: missing.toml: cannot be read (No such file or directory). Check the path and its permissions"
    ]
    assert list(tmp_path.iterdir()) == []
