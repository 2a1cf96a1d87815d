"""Alarms for Prometheus: each fires for its fault, ends with it, has a runbook, and asks only for what is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alarms.yml").read_text())
ALARMS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
OURS = re.compile(r"\bkonsil_[a-z_]+\b")
DAY = 86400
"""Seconds. The clock of promtool's tests begins at 1970: a certificate that ends in 20 days ends at 20 times that."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not here"
)


@dataclass(frozen=True)
class Fault:
    """Series by minute, in promtool's words; minutes at which the alarm is on, and at which it is over."""

    series: dict[str, str]
    on: int
    over: int


def step(name: str, before: str, fault: str, after: str, minutes: int) -> dict[str, str]:
    """A figure that is right for 5 minutes, wrong for so many, and right again."""
    return {name: f"{before}x5 {fault}x{minutes} {after}x120"}


COORDINATOR = 'instance="c",job="konsil-coordinator"'
SITE = 'instance="s",job="konsil-site"'
FAULTS = {
    "KonsilServiceDown": Fault(step(f"up{{{SITE}}}", "1", "0", "1", 5), 9, 15),
    "KonsilServiceRestarts": Fault({f"process_start_time_seconds{{{SITE}}}": "1x5 2x2 3x2 4x2 5x120"}, 20, 100),
    "KonsilBrokerLost": Fault(step(f"konsil_broker_connected{{{SITE}}}", "1", "0", "1", 5), 9, 15),
    "KonsilBrokerBlocked": Fault(step(f"konsil_broker_blocked{{{SITE}}}", "0", "1", "0", 5), 9, 15),
    "KonsilCertificateEndsSoon": Fault(
        step(f"konsil_certificate_end_timestamp_seconds{{{SITE}}}", str(99 * DAY), str(20 * DAY), str(99 * DAY), 5),
        8,
        15,
    ),
    "KonsilCertificateEnds": Fault(
        step(f"konsil_certificate_end_timestamp_seconds{{{SITE}}}", str(99 * DAY), str(2 * DAY), str(99 * DAY), 5),
        8,
        15,
    ),
    "KonsilLittleSpace": Fault(step(f"konsil_state_free_bytes{{{SITE}}}", "9e9", "1e9", "9e9", 15), 19, 25),
    "KonsilEventsSetAside": Fault(step(f"konsil_events_set_aside_total{{{SITE}}}", "0", "1", "1", 5), 10, 100),
    "KonsilDiskFull": Fault(step(f"konsil_disk_full{{{COORDINATOR}}}", "0", "1", "0", 5), 8, 15),
    "KonsilMarkMissing": Fault(step(f"konsil_mark_missing{{{COORDINATOR}}}", "0", "1", "0", 5), 8, 15),
    "KonsilCoordinatorBehind": Fault(step(f"konsil_queue_inputs{{{COORDINATOR}}}", "3", "5000", "0", 10), 14, 20),
    "KonsilExperimentFailed": Fault(
        step(f'konsil_experiments_total{{{COORDINATOR},outcome="failed"}}', "0", "1", "1", 5), 10, 100
    ),
    "KonsilRoundsEndWithoutModel": Fault(
        {f'konsil_rounds_total{{{COORDINATOR},outcome="void"}}': "_x5 1x120"}, 10, 100
    ),
    "KonsilUpdatesRejected": Fault(
        {f'konsil_updates_rejected_total{{{COORDINATOR},reason="update-norm"}}': "_x5 1x120"}, 10, 100
    ),
    "KonsilSiteAbsent": Fault(
        step(f'konsil_site_liveness{{{COORDINATOR},liveness="absent",site="site-a"}}', "_", "1", "_", 20), 19, 40
    ),
    "KonsilSiteNeverSeen": Fault(
        {
            f'konsil_site_liveness{{{COORDINATOR},liveness="absent",site="site-a"}}': "1x1600",
            f'konsil_site_last_seen_timestamp_seconds{{{COORDINATOR},site="site-a"}}': "_x1500 9x100",
        },
        1450,
        1510,
    ),
    "KonsilSiteStuck": Fault(
        step(f'konsil_site_liveness{{{COORDINATOR},liveness="stuck",site="site-a"}}', "_", "1", "_", 20), 19, 40
    ),
    "KonsilSiteSlow": Fault(
        step(f'konsil_site_liveness{{{COORDINATOR},liveness="slow",site="site-a"}}', "_", "1", "_", 60), 50, 80
    ),
    "KonsilVersionsDiffer": Fault(
        {
            f'konsil_site_version_info{{{COORDINATOR},site="site-a",version="0.1.0"}}': "1x10090 _x60",
            f'konsil_site_version_info{{{COORDINATOR},site="site-b",version="0.2.0"}}': "1x10150",
        },
        10085,
        10110,
    ),
    "KonsilRoundsFailHere": Fault(
        {f'konsil_round_failures_total{{{SITE},reason="out-of-memory"}}': "_x5 1x120"}, 10, 100
    ),
    "KonsilNotHeard": Fault(step(f"konsil_spool_events{{{SITE}}}", "2", "500", "0", 20), 19, 30),
    "KonsilPausedForLong": Fault(step(f"konsil_agent_paused{{{SITE}}}", "0", "1", "0", 1500), 1480, 1520),
    "KonsilRabbitDown": Fault(step('up{instance="b",job="rabbitmq"}', "1", "0", "1", 5), 9, 15),
    "KonsilRabbitAlarm": Fault(
        step('rabbitmq_alarms_free_disk_space_watermark{instance="b",job="rabbitmq"}', "0", "1", "0", 5), 8, 15
    ),
    "KonsilRabbitDiskShort": Fault(
        step('rabbitmq_disk_space_available_bytes{instance="b",job="rabbitmq"}', "9e9", "1e9", "9e9", 20)
        | {'rabbitmq_disk_space_available_limit_bytes{instance="b",job="rabbitmq"}': "1e9x200"},
        19,
        40,
    ),
}


def test_every_alarm_has_a_fault_here() -> None:
    assert set(FAULTS) == set(ALARMS)


@needs_promtool
def test_every_alarm_fires_for_its_fault_and_ends_with_it(tmp_path: Path) -> None:
    cases = [make_case(name, fault) for name, fault in FAULTS.items()]
    path = tmp_path / "cases.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alarms.yml")], "tests": cases}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def make_case(name: str, fault: Fault) -> dict[str, Any]:
    return {
        "interval": "1m",
        "name": name,
        "input_series": [{"series": series, "values": values} for series, values in fault.series.items()],
        # which labels an alarm has is said by its rule; here it counts whether there is one
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for minute, value in ((2, 0), (fault.on, 1), (fault.over, 0))
        ],
    }


@needs_promtool
def test_the_examples_are_valid(tmp_path: Path) -> None:
    for name in ("alarms.yml", "prometheus.yml"):
        shutil.copy(FOLDER / name, tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(ALARMS))
def test_every_alarm_has_its_runbook_and_a_severity(name: str) -> None:
    rule = ALARMS[name]
    assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
    assert f"\n## {name}\n" in RUNBOOKS
    assert rule["labels"]["severity"] in {"page", "ticket", "note"}


def test_every_runbook_belongs_to_an_alarm() -> None:
    assert set(re.findall(r"^## (Konsil\w+)$", RUNBOOKS, re.MULTILINE)) == set(ALARMS)


def test_alarms_and_dashboard_ask_only_for_what_the_services_serve() -> None:
    asked = {name for rule in ALARMS.values() for name in OURS.findall(rule["expr"])}
    asked |= {
        name for panel in DASHBOARD["panels"] for one in panel.get("targets", ()) for name in OURS.findall(one["expr"])
    }
    told = set(OURS.findall((ROOT / "docs" / "metrics.md").read_text()))
    assert len(asked) > 15
    assert not asked - told
