"""The systemd units: accepted by systemd itself, and no more exposed than they were."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT

UNITS = ROOT / "deploy" / "systemd"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def rendered(name: str, folder: Path) -> Path:
    """The unit with a program that exists: /opt/konsil is not on a developer's machine."""
    program = folder / "konsil"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / name
    unit.write_text((UNITS / name).read_text().replace("/opt/konsil/current/bin/konsil", str(program)))
    return unit


@pytest.mark.parametrize("name", ["konsil-site.service", "konsil-coordinator.service"])
def test_systemd_accepts_the_unit_without_a_word(name: str, tmp_path: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(rendered(name, tmp_path))], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["konsil-site.service", "konsil-coordinator.service"])
def test_the_unit_is_hardened(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(rendered(name, tmp_path))],
        capture_output=True,
        text=True,
    )
    found = re.search(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 2.0


@pytest.mark.parametrize("name", ["konsil-site.service", "konsil-coordinator.service"])
def test_the_unit_is_supervised_and_does_not_retry_a_wrong_configuration(name: str) -> None:
    lines = (UNITS / name).read_text().splitlines()
    for line in ("Type=notify", "Restart=on-failure", "RestartPreventExitStatus=2"):
        assert line in lines
