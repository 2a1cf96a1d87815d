"""Alarms of a real Prometheus over real services: each fires for its fault, and ends with it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from alarms import disk_alarm
from brokers import eventually, need_broker
from fault_rig import FaultRig
from needs import need_chaos
from places import ROOT

from deploy.local.ports import hold_free_port
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

MONITORING = ROOT / "deploy" / "monitoring"
SITE = "site-a"


class Prometheus:
    """Our rules without their waits, over the services of a rig; a scrape each second."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        rules = yaml.safe_load((MONITORING / "alarms.yml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "alarms.yml").write_text(yaml.safe_dump(rules))
        scraped = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in targets.items()
        ]
        asked = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["alarms.yml"]}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(asked | {"scrape_configs": scraped}))
        self._port = free_port()
        command = [
            "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=error",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, cwd=folder)

    def firing(self) -> set[str]:
        """Names of the alarms that are on now; empty while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/alerts", timeout=10) as answer:
                found = json.load(answer)["data"]["alerts"]
        except OSError:
            return set()
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def scrapes(self) -> int:
        """How many services answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/targets", timeout=10) as answer:
                return sum(one["health"] == "up" for one in json.load(answer)["data"]["activeTargets"])
        except OSError:
            return 0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def free_port() -> int:
    held = hold_free_port("127.0.0.1")
    try:
        return int(held.getsockname()[1])
    finally:
        held.close()


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    need_chaos()
    need_broker()
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus (Debian) is not here")
    rig = FaultRig(tmp_path_factory.mktemp("alarms"))
    try:
        rig.start_broker()
        yield rig
    finally:
        rig.close()


def serve_figures(rig: FaultRig, party: str) -> int:
    port = free_port()
    path = rig.consortium.config_of(party)
    path.write_text(path.read_text() + f'\n[metrics]\nlisten = "127.0.0.1:{port}"\n')
    return port


def test_alarms_fire_for_real_faults_and_end_with_them(rig: FaultRig, tmp_path: Path) -> None:
    targets = {"konsil-coordinator": serve_figures(rig, COORDINATOR), "konsil-site": serve_figures(rig, SITE)}
    for party in (COORDINATOR, SITE, "site-b", "site-c"):
        rig.start(party)
    prometheus = Prometheus(tmp_path, targets)

    def comes(*names: str) -> None:
        eventually(lambda: prometheus.firing() >= set(names), within=180, what=f"the alarms {names}")

    def goes(*names: str) -> None:
        eventually(lambda: not prometheus.firing() & set(names), within=180, what=f"the end of {names}")

    try:
        eventually(lambda: prometheus.scrapes() == 2, within=180, what="both services to be scraped")
        goes("KonsilSiteAbsent", "KonsilSiteNeverSeen", "KonsilServiceDown", "KonsilBrokerLost")

        with disk_alarm(rig.node):
            comes("KonsilBrokerBlocked")
        goes("KonsilBrokerBlocked")

        rig.kill(SITE)
        comes("KonsilServiceDown", "KonsilSiteAbsent")
        rig.start(SITE)
        goes("KonsilServiceDown", "KonsilSiteAbsent")

        rig.services["site-b"].send_signal(signal.SIGSTOP)
        comes("KonsilSiteAbsent")
        rig.services["site-b"].send_signal(signal.SIGCONT)
        goes("KonsilSiteAbsent")

        rig.node.stop()
        comes("KonsilBrokerLost")
        rig.node.start()
        goes("KonsilBrokerLost")
    finally:
        prometheus.close()
