"""Both services under a real systemd, in a machine of their own, with the broker outside it.

The tests share one machine and build on each other in the order of the file: installing takes most of the time.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually, need_broker
from e2e_rig import SITES, Rig, experiment
from nspawn_machine import CHECKOUT, Machine, need_nspawn, wheels

from deploy.demo import toml
from deploy.demo.consortium import CONSORTIUM, RESEARCHER
from deploy.demo.data import phantom_source
from deploy.install.release import ReleaseSource
from deploy.story.story import ExperimentStory
from messages.names import COORDINATOR

pytestmark = [pytest.mark.nspawn, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]

SITE = "site-a"
UNIT = "konsil-site.service"
PYTHON = "/opt/konsil/current/bin/python"
NULL = [PYTHON, "-m", "site_agent.training.null", "--cases", "40", "--seconds", "1.5"]
EVERY_SITE = {"least_sites": "all"}


class World:
    """A consortium whose site-a is a service on a machine of its own."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, seconds=1.5)
        self.sources = folder / "sources"
        for name in ("first", "second"):
            ReleaseSource(CHECKOUT, "cpu").copy_to(self.sources / name)
        second = self.sources / "second" / "pyproject.toml"
        second.write_text(re.sub(r'(?m)^version = ".*"$', 'version = "99.0.0"', second.read_text()))
        self.machine = Machine(folder, {"/sources": self.sources, "/wheels": wheels(self.sources / "first")})
        self.layout = self.rig.layout

    def install(self, role: str, *words: str, source: str = "first", status: int = 0) -> str:
        """Run deploy/install-ROLE in the machine, without network; what it said."""
        command = [f"/sources/{source}/deploy/install-{role}", "--wheels", "/wheels", "--torch", "cpu", *words]
        done = self.machine.run(*command, within=600, status=status)
        return done.stdout + done.stderr

    def bring_images(self) -> None:
        """Phantoms where the machine's operator keeps images."""
        folder = self.machine.path("/data/glioma")
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "deploy.demo.data", "--cases", "10", "--seed", "1"]
        command += ["--shape", "24", "24", "18", "--spacing", "7", "7.5", "7", "--site", f"0:{folder}"]
        subprocess.run(command, check=True)

    def site_toml(self, trainer: list[str] | None) -> str:
        """site.toml as the machine's operator would write it."""
        source = {**phantom_source(self.layout, SITE, 0), "path": "/data/glioma"}
        return toml.write_toml(
            {
                "schema": 1,
                "site": {"name": SITE, "consortium": CONSORTIUM, "state": "/var/lib/konsil"},
                "broker": self._broker(SITE),
                "limits": {"threads": 1},
                "datasets": {"glioma": source},
                "training": {"command": trainer},
                "policy": {
                    "approval": "auto",
                    "allow": [{"researchers": [RESEARCHER], "datasets": ["glioma"]}],
                    "floors": {"least_cases": 2, "least_metric_cases": 1},
                },
            }
        )

    def coordinator_toml(self) -> str:
        """coordinator.toml likewise."""
        who = {"consortium": CONSORTIUM, "state": "/var/lib/konsil-coordinator"}
        who |= {"sites": list(SITES), "researchers": [RESEARCHER]}
        return toml.write_toml({"schema": 1, "coordinator": who, "broker": self._broker(COORDINATOR)})

    def _broker(self, party: str) -> dict[str, object]:
        address = {"host": "127.0.0.1", "port": self.rig.node.port, "vhost": CONSORTIUM, "user": party}
        return address | {"password": "credential:broker-password"}

    def password(self, role: str, party: str) -> None:
        """The operator puts the password that it was given where the unit loads it from."""
        path = self.machine.path(f"/etc/konsil/credentials/{role}/broker-password")
        path.write_text(self.rig.consortium.passwords[party] + "\n")
        path.chmod(0o600)

    def close(self) -> None:
        self.rig.close()
        self.machine.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    need_nspawn()
    need_broker()
    folder = tmp_path_factory.mktemp("world")
    made = World(folder)
    try:
        made.rig.start_broker()
        for party in (COORDINATOR, *SITES[1:]):
            made.rig.start(party)
        made.machine.boot()
        made.bring_images()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def site(world: World) -> World:
    """The world with its agent running; a test that left it stopped does not fail the next one."""
    if world.machine.show(UNIT, "LoadState") != "loaded":
        pytest.fail("the agent was never installed")
    world.machine.run("systemctl", "reset-failed", UNIT, check=False)
    world.machine.run("systemctl", "start", UNIT, within=200)
    return world


def main_pid(world: World) -> int:
    return int(world.machine.show(UNIT, "MainPID"))


def in_training(story: ExperimentStory) -> bool:
    """Whether the machine's site trains, in a round that is open."""
    mine = story.sites.get(SITE)
    return mine is not None and mine.live.phase == "training" and mine.live.round > story.completed_rounds


def test_the_first_installation_writes_a_template_and_says_what_to_fill_in(world: World) -> None:
    said = world.install("site")
    assert "fill in /etc/konsil/site.toml" in said
    assert world.machine.show(UNIT, "ActiveState") == "inactive"
    config = world.machine.path("/etc/konsil/site.toml")
    assert 'password = "credential:broker-password"' in config.read_text()
    assert world.machine.run("stat", "-c", "%a %U:%G", "/etc/konsil/site.toml").stdout.strip() == "640 root:konsil"
    assert world.machine.run("stat", "-c", "%a %U:%G", "/etc/konsil/credentials").stdout.strip() == "700 root:root"


def test_an_installation_whose_preflight_fails_says_why_and_starts_nothing(world: World) -> None:
    said = world.install("site", status=2)
    assert "site.name" in said
    assert "not started" in said
    assert "Traceback" not in said
    assert world.machine.show(UNIT, "ActiveState") == "inactive"


def test_once_it_is_filled_in_the_same_command_checks_and_starts_the_agent(world: World) -> None:
    world.machine.path("/etc/konsil/site.toml").write_text(world.site_toml(NULL))
    world.password("site", SITE)
    said = world.install("site")
    assert "10 of 10 cases usable" in said
    assert "coordinator answers" in said
    assert "✗" not in said
    assert world.machine.show(UNIT, "ActiveState") == "active"
    assert world.machine.show(UNIT, "UnitFileState") == "enabled"


def test_an_installation_that_is_done_is_found_done_and_disturbs_nothing(site: World) -> None:
    before = main_pid(site), site.machine.path("/etc/konsil/site.toml").read_text()
    said = site.install("site")
    assert "is already there" in said
    assert "runs already" in said
    assert (main_pid(site), site.machine.path("/etc/konsil/site.toml").read_text()) == before


def test_the_units_verify_and_expose_little(site: World) -> None:
    for unit in (UNIT, "konsil-site-preflight.service"):
        done = site.machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}")
        assert done.stdout + done.stderr == ""
    said = site.machine.run("systemd-analyze", "security", "--no-pager", UNIT).stdout
    found = re.search(r"Overall exposure level for konsil-site.service: ([0-9.]+)", said)
    assert found is not None, said[-300:]
    assert float(found[1]) <= 2.0


def test_a_round_ends_with_the_services_update_and_its_status_says_round_and_progress(site: World) -> None:
    one = experiment("calm", quorum=EVERY_SITE)
    site.rig.publish(one)
    site.rig.wait(one.id, in_training, "the machine's site trains")
    told = eventually(
        lambda: re.search(r"calm: round \d of 2, training \d+ of \d+", site.machine.show(UNIT, "StatusText")),
        what="a status with round and progress",
    )
    assert told
    story = site.rig.complete(one.id)
    assert all(set(done.contributors) == set(SITES) for done in story.round_list)


def test_an_agent_killed_in_training_is_brought_back_and_the_round_ends_with_the_same_bits(site: World) -> None:
    one = experiment("killed", quorum=EVERY_SITE)
    site.rig.publish(one)
    site.rig.wait(one.id, in_training, "the machine's site trains")
    pid, restarts = main_pid(site), int(site.machine.show(UNIT, "NRestarts"))
    site.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    story = site.rig.complete(one.id, deadline=120)
    assert all(set(done.contributors) == set(SITES) for done in story.round_list)
    assert story.model_digest == site.rig.story("calm").model_digest
    assert main_pid(site) not in (0, pid)
    assert int(site.machine.show(UNIT, "NRestarts")) == restarts + 1


def test_an_agent_whose_main_loop_stands_still_is_ended_by_the_watchdog_and_started_again(site: World) -> None:
    drop_in = site.machine.path(f"/etc/systemd/system/{UNIT}.d/shorter.conf")
    drop_in.write_text("[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nRestartSec=1\n")
    site.machine.run("systemctl", "daemon-reload")
    site.machine.run("systemctl", "restart", UNIT)
    pid = main_pid(site)
    site.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    eventually(lambda: main_pid(site) not in (0, pid), within=60, what="another main process")
    eventually(lambda: site.machine.show(UNIT, "ActiveState") == "active", within=60, what="ready again")
    assert any("Watchdog timeout" in line for line in site.machine.journal(UNIT))
    drop_in.unlink()
    site.machine.run("systemctl", "daemon-reload")
    site.machine.run("systemctl", "restart", UNIT)


def test_stopping_in_training_is_in_order_within_its_time_and_the_next_start_trains_on(site: World) -> None:
    one = experiment("stopped", quorum=EVERY_SITE)
    site.rig.publish(one)
    site.rig.wait(one.id, in_training, "the machine's site trains")
    started = time.monotonic()
    site.machine.run("systemctl", "stop", UNIT, within=60)
    took = time.monotonic() - started
    assert site.machine.show(UNIT, "Result") == "success"
    assert site.machine.show(UNIT, "ExecMainStatus") == "0"
    assert took < 30, "systemd had to end it: TimeoutStopSec"
    messages = [json.loads(line) for line in site.machine.journal(UNIT) if line.startswith("{")]
    assert messages[-1]["event"] == "leaving"
    left = site.machine.run("find", "/proc", "-maxdepth", "1", "-user", "konsil", check=False).stdout
    assert left == "", "a trainer outlived its agent"
    site.machine.run("systemctl", "start", UNIT, within=200)
    story = site.rig.complete(one.id, deadline=120)
    assert all(set(done.contributors) == set(SITES) for done in story.round_list)


def test_the_journals_lines_are_structured(site: World) -> None:
    site.machine.run("journalctl", "--sync")
    lines = site.machine.run("journalctl", "--no-pager", "--output=json", "--unit", UNIT).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    own = [entry for entry in entries if entry.get("_COMM") != "systemd" and entry.get("SYSLOG_IDENTIFIER") == "konsil"]
    assert own
    events = [json.loads(entry["MESSAGE"]) for entry in own]
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)
    assert any(event["event"] == "ready" and event.get("site") == SITE for event in events)


def test_an_upgrade_and_a_rollback_keep_state_and_configuration(site: World) -> None:
    machine = site.machine
    first = machine.run("readlink", "/opt/konsil/current").stdout.strip()
    config = machine.path("/etc/konsil/site.toml").read_text()
    spool = machine.run("find", "/var/lib/konsil", "-name", "*.sqlite*", "-o", "-name", "*.db").stdout
    assert spool

    said = site.install("site", source="second")
    second = machine.run("readlink", "/opt/konsil/current").stdout.strip()
    assert second.startswith("99.0.0-")
    assert f"switched from {first} to {second}" in said
    one = experiment("upgraded", quorum=EVERY_SITE)
    site.rig.publish(one)
    site.rig.complete(one.id)

    site.install("site", "--rollback")
    assert machine.run("readlink", "/opt/konsil/current").stdout.strip() == first
    command = machine.run("cat", f"/proc/{main_pid(site)}/cmdline").stdout
    assert f"/opt/konsil/{first}/" in command
    another = experiment("rolled-back", quorum=EVERY_SITE)
    site.rig.publish(another)
    story = site.rig.complete(another.id)
    assert story.model_digest == site.rig.story("calm").model_digest
    assert machine.path("/etc/konsil/site.toml").read_text() == config
    assert machine.run("find", "/var/lib/konsil", "-name", "*.sqlite*", "-o", "-name", "*.db").stdout == spool


@pytest.mark.torch
def test_torch_trains_in_the_agents_sandbox_and_builds_the_model_in_the_coordinators(site: World) -> None:
    """The real trainer at the site, and the coordinator too as a service; the two other sites stay rehearsals.

    The coordinator moves: its state is copied, and goes on under a new term.
    """
    machine, rig = site.machine, site.rig
    rig.kill(COORDINATOR)
    shutil.copytree(rig.layout.coordinator, machine.path("/var/lib/konsil-coordinator"))
    machine.path("/etc/konsil/coordinator.toml").write_text(site.coordinator_toml())
    machine.path("/etc/konsil/credentials/coordinator").mkdir()
    site.password("coordinator", COORDINATOR)
    machine.run("systemctl", "stop", UNIT)
    machine.path("/etc/konsil/site.toml").write_text(site.site_toml(None))
    site.install("coordinator")
    unit = "konsil-coordinator.service"
    assert machine.show(unit, "ActiveState") == "active"
    assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}").stderr == ""
    said = machine.run("systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert found is not None
    assert float(found[1]) <= 2.0

    said = site.install("site")
    assert "✗" not in said
    one = experiment(
        "torch",
        rounds={"count": 8},  # long enough for the coordinator's status, which is told every 5 s
        quorum=EVERY_SITE,
        training={"patch": [16, 16, 16], "patches_per_case": 1},
        data={"least_cases": 2},
    )
    rig.publish(one)
    told = r"torch: (running|aggregating) round \d of 8, \d of 3 updates; 1 running, entry \d+"
    rig.wait(one.id, lambda _story: bool(re.match(told, machine.show(unit, "StatusText"))), "its status", 120)
    story = rig.complete(one.id, deadline=300)
    assert all(set(done.contributors) == set(SITES) for done in story.round_list)


def test_uninstalling_keeps_configuration_and_state_unless_it_is_told_to_purge(site: World) -> None:
    machine = site.machine
    for role in ("coordinator", "site"):
        machine.run(f"/sources/first/deploy/uninstall-{role}", within=300)
    assert not machine.path(f"/etc/systemd/system/{UNIT}").exists()
    assert not machine.path("/opt/konsil").exists()
    assert machine.path("/etc/konsil/site.toml").exists()
    assert any(machine.path("/var/lib/konsil").iterdir())
    for role in ("coordinator", "site"):
        machine.run(f"/sources/first/deploy/uninstall-{role}", "--purge", within=300)
    assert not machine.path("/etc/konsil").exists()
    assert not machine.path("/var/lib/konsil").exists()
    assert "konsil" not in machine.path("/etc/passwd").read_text()
