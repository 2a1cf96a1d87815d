"""A broker in memory, a scripted coordinator, and agents that a test starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import site_consortium as script
from agent_rig import Running, Start
from brokers import eventually
from gated_trainer import Gate

from messages.bus.memory import MemoryBroker


@pytest.fixture
def broker() -> MemoryBroker:
    return script.broker()


@pytest.fixture
def coordinator(broker: MemoryBroker) -> Iterator[script.ScriptedCoordinator]:
    one = script.ScriptedCoordinator(broker)
    yield one
    one.bus.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Where rounds are held in mid-training; of agents that were started with `training={"command": gate.trainer}`."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def start(broker: MemoryBroker, tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def begin(*trainer: str, **sections: Any) -> Running:
        one = Running(broker, script.site_config(tmp_path / "state", *trainer, **sections))
        running.append(one)
        eventually(one.answers, what="the agent to answer")
        return one

    yield begin
    for one in running:
        if one.thread.is_alive():
            one.stop()
