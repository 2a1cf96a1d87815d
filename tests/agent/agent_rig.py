"""An agent on a thread of its own, on the bus in memory, with the null trainer's real processes; its way to a round."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import site_consortium as script
from brokers import PATIENCE, eventually

from messages.bus.memory import MemoryBroker, MemoryBus
from messages.ground.errors import Unreachable
from messages.kinds import RoundComplete
from messages.reasons import Reason
from site_agent.config import SiteConfig
from site_agent.desk import control
from site_agent.service import Agent


class Running:
    """An agent on a thread of its own."""

    def __init__(self, broker: MemoryBroker, config: SiteConfig) -> None:
        self.config = config
        self.agent = Agent(config, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
        self.result: list[int] = []
        self.thread = threading.Thread(target=lambda: self.result.append(self.agent.run()), daemon=True)
        self.thread.start()

    def stop(self) -> int:
        self.agent.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.result[0]

    def answers(self) -> bool:
        try:
            return bool(self.ask("status"))
        except Unreachable:
            return False

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        return control.ask_agent(self.config.site.state, {"do": do, **more})


Start = Callable[..., Running]


def joined(coordinator: script.ScriptedCoordinator) -> None:
    coordinator.accept()
    eventually(lambda: coordinator.of("joined"), what="joined")


def training(coordinator: script.ScriptedCoordinator, running: Running) -> None:
    """Join, and come to train round 1."""
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")


def through_rounds(coordinator: script.ScriptedCoordinator, *numbers: int) -> None:
    joined(coordinator)
    for number in numbers:
        coordinator.send_model(number)
        coordinator.start_round(number)
        eventually(lambda n=number: coordinator.of("weights-ready", n), what="weights-ready")  # type: ignore[misc]


def close_round(coordinator: script.ScriptedCoordinator, number: int) -> None:
    body = RoundComplete(contributors={}, left_out={"site-a": Reason.ABSENT}, model_digest="0" * 64, seconds=1.0)
    coordinator.say("round-complete", body, experiment="exp-1", round_number=number)
