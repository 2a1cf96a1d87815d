"""`python -m site_agent` as a process of its own against a real broker: kills, signals, exit statuses, preflight."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import site_consortium as script
from brokers import PATIENCE, RealBroker, eventually

from messages.ground.errors import KonsilError
from site_agent import config as configuration
from site_agent.desk import control
from site_agent.desk.checks import Grade, exit_status
from site_agent.desk.preflight import run_checks
from site_agent.training.null import round_addend

pytestmark = pytest.mark.broker


class Site:
    """A site's folder with its site.toml, and the agents that were started on it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.processes: list[subprocess.Popen[str]] = []

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, *trainer: str, password: str = "pw-site-a", port: int | None = None) -> Path:
        command = json.dumps([sys.executable, "-m", "site_agent.training.null", *trainer])
        path = self.folder / "site.toml"
        path.write_text(
            f'schema = 1\n[site]\nname = "site-a"\nconsortium = "test"\nstate = "{self.state}"\n'
            f'[broker]\nport = {port or self.port}\nvhost = "test"\npassword = "{password}"\nheartbeat_seconds = 5\n'
            f'[datasets.glioma]\nsource = "brats"\npath = "{self.folder}"\nlabels = {{ 3 = "ET" }}\n'
            f'[policy]\napproval = "auto"\n[[policy.allow]]\nresearchers = ["dr-a"]\n'
            f"[training]\ncommand = {command}\n"
        )
        return path

    def start(self, *trainer: str, **more: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "site_agent", "--config", str(self.write(*trainer, **more))],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def status(self) -> dict[str, Any]:
        try:
            return control.ask_agent(self.state, {"do": "status"})
        except KonsilError:
            return {"state": "not running"}


@pytest.fixture
def site(clean_broker: RealBroker, tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path, clean_broker.node.port)
    yield one
    for process in one.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def coordinator(clean_broker: RealBroker) -> script.ScriptedCoordinator:
    return script.ScriptedCoordinator(clean_broker.bus("coordinator"))


def test_an_agent_killed_in_training_comes_back_and_sends_the_same_bits(
    site: Site, coordinator: script.ScriptedCoordinator
) -> None:
    first = site.start("--seconds", "600")
    coordinator.accept()
    eventually(lambda: coordinator.of("joined"), what="joined")
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: site.status()["state"] == "training", what="training")
    trainer = eventually(lambda: site.status()["experiments"][0]["trainer_pid"], what="the trainer")
    first.kill()
    first.wait()
    eventually(lambda: not Path(f"/proc/{trainer}/exe").exists(), what="the trainer to end with its agent")
    second = site.start()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    np.testing.assert_array_equal(
        coordinator.update(ready)["w"], coordinator.model(1)["w"] + round_addend(7, "site-a", 1)
    )
    assert ready.body.transfer.attempt == 1
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0
    assert eventually(lambda: coordinator.of("leaving"), what="its leaving")


def test_preflight_finds_every_path_open_beside_the_running_agent(
    site: Site, coordinator: script.ScriptedCoordinator
) -> None:
    site.start()
    eventually(lambda: site.status()["state"] == "idle", what="the agent")
    checks = {check.name: check for check in run_checks(configuration.read_config(site.write()))}
    for name in ("state", "broker", "downlink", "global", "inbox", "uplink", "gpu"):
        assert checks[name].grade is Grade.OK, checks[name]
    assert "clocks differ by" in checks["uplink"].what
    assert checks["dataset glioma"].grade is Grade.FAIL  # the folder holds no case
    assert exit_status(list(checks.values())) == 2
    assert site.status()["broker"] == "connected"


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [({"password": "wrong"}, 3, "refuses the login"), ({"port": 1}, 3, "konsil: ")],
)
def test_a_broker_that_refuses_or_is_down_at_the_start_ends_it_with_one_line(
    site: Site, more: dict[str, Any], status: int, words: str
) -> None:
    process = site.start(**more)
    _, said = process.communicate(timeout=PATIENCE)
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert process.returncode == status
    assert len(lines) == 1
    assert words in lines[0]


def test_a_twin_is_refused_with_one_line(site: Site, coordinator: script.ScriptedCoordinator) -> None:
    site.start()
    eventually(lambda: site.status()["state"] == "idle", what="the agent")
    twin = site.start()
    _, said = twin.communicate(timeout=PATIENCE)
    assert twin.returncode == 2
    assert said.splitlines()[-1].startswith(f"konsil: {site.state}: another agent works on this state directory")


def test_an_agent_elsewhere_under_the_same_name_is_heard_to_live_and_ends_the_wait(
    site: Site, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    site.start()
    eventually(lambda: site.status()["state"] == "idle", what="the agent")
    elsewhere = Site(tmp_path / "elsewhere", site.port)
    elsewhere.folder.mkdir()
    twin = elsewhere.start()
    _, said = twin.communicate(timeout=PATIENCE)
    assert twin.returncode == 2
    assert "another agent is at work under the name 'site-a'" in said.splitlines()[-1]
    assert site.status()["broker"] == "connected"


def test_a_site_toml_that_was_edited_is_told_by_status_and_preflight(
    site: Site, coordinator: script.ScriptedCoordinator
) -> None:
    site.start()
    eventually(lambda: site.status()["state"] == "idle", what="the agent")
    path = site.folder / "site.toml"
    command = [sys.executable, "-m", "deploy.cli", "site", "status", "--config", str(path)]
    assert "restart" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path.write_text(path.read_text() + "nice = 7\n")
    words = f"{path} was changed since the running agent read it: restart the agent, and it counts"
    assert words in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert told["file_outdated"] is True
    checks = {check.name: check for check in run_checks(configuration.read_config(path), file=path)}
    assert (checks["agent"].grade, checks["agent"].what) == (Grade.WARN, words)


def test_an_agent_that_is_told_to_stop_while_it_waits_for_its_inbox_ends_at_once_with_0(
    site: Site, clean_broker: RealBroker
) -> None:
    holder = clean_broker.bus("site-a")
    holder.subscribe("inbox.site-a", lambda _delivery: None, exclusive=True)
    process = site.start()
    log = os.fdopen(os.dup(process.stderr.fileno()), errors="replace")  # type: ignore[union-attr]
    with log:
        assert any("taking the inbox" in line for line in iter(log.readline, ""))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def test_a_configuration_with_a_mistake_ends_it_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("schema = 1\n")
    done = subprocess.run([sys.executable, "-m", "site_agent", "--config", str(path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"konsil: {path}: key 'site' is missing\n"


def test_the_agents_process_never_imports_torch() -> None:
    modules = "site_agent.service, site_agent.desk.preflight"
    code = f"import {modules}, sys; sys.exit(bool({{'torch', 'monai'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
