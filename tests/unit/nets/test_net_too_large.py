"""A net is counted before it is built: its description alone must not fill a coordinator's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from coordinator_kit import plain

from messages.ground.errors import TooLarge

MEASURED = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_pid, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process counts what its parent held when it was started, so the parent is a small one, and no test's."""

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_a_net_of_a_billion_parameters_is_refused_by_its_size_before_it_takes_any_memory(tmp_path: Path) -> None:
    huge = plain(net={"name": "UNet", "channels": [1024, 2048, 4096], "strides": [2, 2]})
    (tmp_path / "experiment.json").write_text(json.dumps(huge))
    command = [sys.executable, "-m", "nets.initial", "--experiment", str(tmp_path / "experiment.json")]
    command += ["--out", str(tmp_path / "out"), "--manifest", str(tmp_path / "manifest")]
    small = [sys.executable, "-S", "-c", MEASURED, *command, "--most-bytes", str(64 * 2**20)]
    done = subprocess.run(small, capture_output=True, text=True, check=False)
    assert done.returncode == TooLarge.exit_status, done.stderr
    assert "the coordinator takes at most 64.0 MiB" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout) * 1024 < 10**9, "torch itself takes half of that; the net would take four times as much"
    assert not (tmp_path / "out").exists()
