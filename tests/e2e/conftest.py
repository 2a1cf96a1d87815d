"""Demos that several modules look at, run once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil

import pytest
from brokers import need_broker
from e2e_finished import Finished, finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One tiny demo, run to its end; for all processes of pytest-xdist, whose folders lie side by side."""
    need_broker()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return finish(tmp_path_factory.mktemp("demo") / "out")
    shared = tmp_path_factory.getbasetemp().parent / "demo"
    shared.mkdir(exist_ok=True)
    result = shared / "result.json"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # flock(2): let go of where its process ends
        if not result.exists():
            shutil.rmtree(shared / "out", ignore_errors=True)  # of one that failed
            result.write_text(json.dumps(finish(shared / "out").result))
    return Finished(shared / "out", json.loads(result.read_text()))
