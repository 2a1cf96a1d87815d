"""Fixtures for every test: a real private broker (one for the session), wiped between tests.

A missing RabbitMQ skips the tests that need it on a desk, and fails them where CI=true.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from brokers import RealBroker, consortium_definitions, need_broker, with_admin
from hypothesis import HealthCheck, settings

from deploy.broker.node import PrivateNode

# A machine that stood still for a fifth of a second says nothing of what is tried, nor of how examples are drawn.
# What else hypothesis sets up stays: where CI is set, the same examples in each run.
settings.register_profile("konsil", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("konsil")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, where files run side by side: one that comes last leaves the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("torch")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that was run in this process has set its log up; what comes after it would write to its closed ends."""
    hooks = sys.excepthook, threading.excepthook
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        logging.basicConfig(handlers=[], level=logging.WARNING, force=True)
        sys.excepthook, threading.excepthook = hooks


@pytest.fixture(autouse=True)
def torch_as_in_a_new_process() -> Iterator[None]:
    """A test that trains in this process asks torch for the same bits; tests after it would see other passes."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def session_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """One private node for the whole session; tests ask for `broker` or `clean_broker`."""
    need_broker()
    definitions = with_admin(consortium_definitions())
    node = PrivateNode(Path(tmp_path_factory.mktemp("broker")), definitions=definitions, tls=True)
    node.start()
    try:
        yield RealBroker(node, definitions)
    finally:
        node.kill_node()


@pytest.fixture
def broker(session_broker: RealBroker) -> RealBroker:
    """The session's broker, running: a test before may have stopped it. Leftovers lie in its queues."""
    session_broker.start()
    return session_broker


@pytest.fixture
def clean_broker(broker: RealBroker) -> Iterator[RealBroker]:
    """The session's broker with every queue empty; buses made through it are closed at the end."""
    broker.wipe()
    yield broker
    broker.close_buses()
