"""Fixtures for every test: a real private broker (one for the session), wiped between tests.

A missing RabbitMQ skips the tests that need it on a desk, and fails them where CI=true.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import RealBroker, consortium_definitions, need_broker, with_admin

from deploy.broker.node import PrivateNode


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """A running private node for the whole session; use `clean_broker` unless leftovers do not matter."""
    need_broker()
    definitions = with_admin(consortium_definitions())
    node = PrivateNode(Path(tmp_path_factory.mktemp("broker")), definitions=definitions, tls=True)
    node.start()
    try:
        yield RealBroker(node, definitions)
    finally:
        node.kill()


@pytest.fixture
def clean_broker(broker: RealBroker) -> Iterator[RealBroker]:
    """The session's broker with every queue empty; buses made through it are closed at the end."""
    if broker.node.pid is None:
        broker.node.start()
    broker.wipe()
    yield broker
    broker.close_buses()
