"""Demos that several modules look at, run once."""

from __future__ import annotations

import pytest
from brokers import need_broker
from e2e_finished import Finished, finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One tiny demo, run to its end."""
    need_broker()
    return finish(tmp_path_factory.mktemp("demo") / "out")
