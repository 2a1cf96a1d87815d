"""A net is counted before it is built: its description alone must not fill a coordinator's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from coordinator_kit import plain

from nets.initial import TOO_LARGE_STATUS

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_a_net_of_a_billion_parameters_is_refused_by_its_size_before_it_takes_any_memory(tmp_path: Path) -> None:
    huge = plain(net={"name": "UNet", "channels": [1024, 2048, 4096], "strides": [2, 2]})
    (tmp_path / "experiment.json").write_text(json.dumps(huge))
    command = [sys.executable, "-m", "nets.initial", "--experiment", str(tmp_path / "experiment.json")]
    command += ["--out", str(tmp_path / "out"), "--manifest", str(tmp_path / "manifest")]
    process = subprocess.Popen([*command, "--most-bytes", str(64 * 2**20)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    _pid, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == TOO_LARGE_STATUS, said
    assert "the coordinator takes at most 64.0 MiB" in said
    assert "Traceback" not in said
    assert used.ru_maxrss * 1024 < 10**9, "torch itself takes half of that; the net would take four times as much"
    assert not (tmp_path / "out").exists()
