"""SIGTERM before a service is ready: it ends in order, with status 0 and one line, wherever it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import PATIENCE, VHOST, RealBroker, eventually

from coordinator.record.journal import Journal

WORD = "konsil: told to stop while it was starting"
SERVICES = (
    ("site_agent", "--config"),
    ("coordinator", "--config"),
    ("deploy.cli", "site", "run", "--config"),
    ("deploy.cli", "coordinator", "run", "--config"),
)


@pytest.mark.parametrize("command", SERVICES)
def test_a_service_that_is_told_to_stop_while_it_imports_ends_with_0_and_one_line(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    # In pika's place something that waits in the middle of the imports, until somebody is there to tell.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "pika.py").write_text(f"open({str(gate)!r}).read()\n")
    process = subprocess.Popen(
        [sys.executable, "-m", *command, str(tmp_path / "none.toml")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with gate.open("w"):  # opens once it reads
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, f"{WORD}\n")


@pytest.mark.broker
def test_a_coordinator_that_is_told_to_stop_while_it_waits_for_its_inbox_ends_with_0_and_frees_its_journal(
    clean_broker: RealBroker, tmp_path: Path
) -> None:
    clean_broker.bus("coordinator").subscribe("inbox.coordinator", lambda _delivery: None, exclusive=True)
    state, config = tmp_path / "state", tmp_path / "coordinator.toml"
    config.write_text(
        f'schema = 1\n[coordinator]\nconsortium = "{VHOST}"\nstate = "{state}"\nsites = ["site-a"]\n'
        f'researchers = ["dr-a"]\n[broker]\nport = {clean_broker.node.port}\nvhost = "{VHOST}"\n'
        'password = "pw-coordinator"\nheartbeat_seconds = 20\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator", "--config", str(config)], stderr=subprocess.PIPE, text=True
    )
    try:
        eventually((state / "journal.sqlite").exists, what="the journal")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, WORD in said) == (0, True), said
    Journal(state).close()
