"""A site keeps so many training processes warm, and no more, however many experiments it has joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_consortium as script
from agent_rig import Running, Start, joined, through_rounds
from brokers import eventually

MANY = 8


def warm(running: Running) -> dict[str, int]:
    """Experiment → its process."""
    told = running.ask("status")["experiments"]
    return {one["experiment"]: one["trainer_pid"] for one in told if one["trainer_pid"] is not None}


def recruit(coordinator: script.ScriptedCoordinator, count: int) -> None:
    """So many experiments that recruit, and never begin a round."""
    for number in range(count):
        coordinator.accept(script.experiment_file(f"recruits-{number}"))
    eventually(
        lambda: len({one.experiment for one in coordinator.of("joined")} - {"exp-1"}) >= count, what="all joined"
    )


@pytest.mark.parametrize("most", [1, 2])
def test_experiments_that_only_recruit_keep_no_more_trainers_warm_than_the_operator_lets(
    most: int, start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    command = script.site_config(tmp_path).training.command
    running = start(training={"command": command, "warm": most})
    recruit(coordinator, MANY)
    assert len(warm(running)) == most


def test_a_trainer_that_has_trained_stays_warm_while_others_recruit(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start()
    through_rounds(coordinator, 1)
    pid = warm(running)["exp-1"]
    recruit(coordinator, MANY)
    assert warm(running)["exp-1"] == pid
    coordinator.send_model(2)
    coordinator.start_round(2)
    eventually(lambda: coordinator.of("weights-ready", 2), what="the next round's update")
    assert warm(running)["exp-1"] == pid


def test_an_experiment_whose_trainer_went_cold_trains_all_the_same(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start()
    joined(coordinator)
    recruit(coordinator, MANY)
    assert "exp-1" not in warm(running)
    coordinator.send_model(1)
    coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="the update")
