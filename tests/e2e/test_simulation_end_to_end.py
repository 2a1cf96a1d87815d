"""A simulation with real training makes, bit by bit, the model that the same experiment makes over a real broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import e2e_tiny_simulation
import pytest
from brokers import PATIENCE
from e2e_finished import Finished

pytestmark = [pytest.mark.broker, pytest.mark.torch, pytest.mark.slow]


def simulate(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, e2e_tiny_simulation.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_two_workers_and_a_real_broker_come_to_the_same_bits(finished: Finished, tmp_path: Path) -> None:
    """Two: so a site's rounds are trained now here, now there. That their number changes nothing in the model and no
    byte of the log: test_simulated_studies."""
    made = simulate(finished.out / "experiment.toml", 2, tmp_path / "two")
    assert made["model_digest"] == finished.result["model_digest"]
    assert made["dice"]["federated"] == finished.result["dice"]["federated"]
    assert Path(made["log"]).stat().st_size > 0
