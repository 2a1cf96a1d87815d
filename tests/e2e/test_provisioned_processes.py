"""A consortium from nothing by `konsil provision` alone: real broker, TLS, logins by certificate, one round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, eventually, need_broker

from deploy.cli import command
from deploy.demo import experiments
from deploy.demo.processes import Child, Children
from deploy.demo.toml import write_toml
from deploy.local.ports import hold_free_port
from site_agent.config import read_config
from site_agent.desk.checks import Grade
from site_agent.desk.preflight import run_checks

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SITES = ("site-a", "site-b")
DATA = """
[datasets.glioma]
source = "brats"
path = "data"
labels = { 1 = "NCR", 2 = "ED", 3 = "ET" }

[policy]
approval = "auto"
[[policy.allow]]
researchers = ["dr-a"]

[training]
command = [PYTHON, "-m", "site_agent.training.null", "--cases", "40", "--seconds", "0.1"]
"""


class Town:
    """The folders of operator and parties below one, and what runs in them."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.children = place, Children()
        self._capsys = capsys
        self.services: dict[str, Child] = {}

    def konsil(self, *words: str | Path, status: int = 0) -> str:
        """What the command says, which ends with this status."""
        found = command.run_command([str(word) for word in words])
        said = self._capsys.readouterr()
        assert found == status, said.err
        return said.out + said.err

    def provision(self, verb: str, *words: str | Path) -> str:
        return self.konsil("provision", verb, *words, "--folder", self.place / "office")

    def let_in(self, **roles: str) -> None:
        """Each step as the manual has it."""
        names = {name.replace("_", "-"): role for name, role in roles.items()}
        for name, role in names.items():
            self.konsil("provision", "request", name, "--role", role, "--out", self.place / name)
        self.provision("approve", *(self.place / name / f"{name}.request" for name in names), "--yes")
        for name in names:
            kit = self.place / "office" / "kits" / f"{name}.kit"
            self.konsil("provision", "install", kit, "--into", self.place / name, "--yes")

    def start(self, module: str, config: Path) -> None:
        log = self.place / f"{config.parent.name}.log"
        run = [sys.executable, "-m", module, "--config", str(config)]
        self.services[config.parent.name] = self.children.start_child(config.parent.name, run, log)

    def name_data(self, site: str) -> Path:
        """What a hospital's operator adds to site.toml."""
        config = self.place / site / "site.toml"
        (config.parent / "data").mkdir()
        kept = config.read_text().partition("# What may be trained on")[0]
        config.write_text(kept + DATA.replace("PYTHON", f'"{sys.executable}"'))
        return config


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Town]:
    need_broker()
    with hold_free_port("127.0.0.1") as held:
        port = str(held.getsockname()[1])
    found = Town(tmp_path, capsys)
    init = ("--consortium", "glioma", "--host", "127.0.0.1", "--port", port)
    found.konsil("provision", "init", tmp_path / "office", *init)
    try:
        yield found
    finally:
        found.children.end_all(patience=0)
        found.provision("down")


def test_two_hospitals_and_a_researcher_train_a_round_and_who_is_revoked_is_out(town: Town) -> None:
    town.let_in(site_a="site", dr_a="researcher")
    up = [sys.executable, "-m", "deploy.cli", "provision", "up", "--folder", str(town.place / "office")]
    subprocess.run(up, check=True, capture_output=True)  # the node outlives the process that started it
    town.let_in(site_b="site")  # at a broker that runs
    town.start("coordinator", town.place / "office" / "coordinator" / "coordinator.toml")
    for site in SITES:
        town.start("site_agent", town.name_data(site))
    check = next(one for one in run_checks(read_config(town.place / "site-a" / "site.toml")) if one.name == "broker")
    assert (check.grade, "by certificate" in check.what) == (Grade.OK, True)

    plain = experiments.glioma_demo(rounds=1, seed=7, sites=SITES) | {"id": "first"}
    plain["net"] = {"name": "Rehearsal", "tensors": 10, "kilobytes": 40}
    file = town.place / "first.toml"
    file.write_text(write_toml(plain))
    profile = ("--profile", town.place / "dr-a" / "profile.toml")
    town.konsil("experiment", "start", file, *profile)
    assert '"complete"' in town.konsil("experiment", "watch", "first", "--json", *profile)

    told = town.provision("revoke", "site-b", "--yes")
    assert "the private node has taken it on" in told
    log = town.place / "site-b.log"
    eventually(lambda: "refuses the login 'site-b'" in log.read_text(), PATIENCE, "the revoked site is refused")
