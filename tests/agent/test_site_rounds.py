"""The whole agent through rounds: which ones it trains, what it says again, and what an end frees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import site_consortium as script
from agent_rig import Start, close_round, joined, training
from brokers import eventually
from gated_trainer import Gate

from messages.kinds import ExperimentAborted
from messages.reasons import Reason
from site_agent.training.null import round_addend


def test_a_round_yields_the_update_that_seed_site_and_round_decide(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1, evaluate=True)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert coordinator.of("round-accepted", 1)
    update = coordinator.update(ready)
    expected = {
        name: value + round_addend(7, "site-a", 1).astype(value.dtype) for name, value in coordinator.model(1).items()
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(update[name], value)
    assert ready.body.cases_used == 28
    # 4 validation cases are fewer than the floor of 5: only their number is told.
    assert ready.body.validation.withheld
    assert ready.body.validation.metrics == {}


def test_an_update_without_a_receipt_survives_a_restart_and_is_said_again_as_it_was(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.receipting = False
    first = start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert first.stop() == 0
    assert eventually(lambda: coordinator.of("leaving"), what="its leaving")
    second = start()
    again = eventually(lambda: coordinator.of("weights-ready")[1:], what="the event said again")[0]
    assert again.raw == ready.raw
    assert list((tmp_path / "state" / "updates").iterdir())
    coordinator.receipting = True
    for event in [*coordinator.of("weights-ready"), *coordinator.of("leaving")]:
        coordinator.receipt(event)
    eventually(lambda: not list((tmp_path / "state" / "updates").iterdir()), what="the update's file to be freed")
    assert second.ask("status")["experiments"][0]["phase"] == "idle"


def test_a_stop_in_mid_training_trains_the_same_bits_after_the_restart(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    first = start("--seconds", "600")
    training(coordinator, first)
    first.stop()
    start()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    np.testing.assert_array_equal(
        coordinator.update(ready)["w"], coordinator.model(1)["w"] + round_addend(7, "site-a", 1)
    )
    assert ready.body.transfer.attempt == 1


def test_a_newer_round_wins_and_the_old_one_is_dropped(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate
) -> None:
    running = start(training={"command": gate.trainer})
    gate.hold("site-a")
    training(coordinator, running)
    coordinator.send_model(2)
    coordinator.start_round(2)
    eventually(lambda: coordinator.of("round-accepted", 2), what="round 2 to be taken")
    gate.open("site-a")
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")
    assert [event.round for event in ready] == [2]


def test_a_round_that_closed_is_left(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start("--seconds", "600")
    training(coordinator, running)
    close_round(coordinator, 1)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    assert not coordinator.of("weights-ready")


def trainer_that_waits_for(gate: Path) -> dict[str, Any]:
    """The null trainer, which starts only once a file is there."""
    wait = 'while [ ! -e "$0" ]; do sleep 0.05; done; exec "$@"'
    return {"command": ["sh", "-c", wait, str(gate), sys.executable, "-m", "site_agent.training.null"]}


def test_a_trainer_that_starts_more_slowly_than_rounds_follow_each_other_still_comes_to_train(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    first = start()
    joined(coordinator)
    first.stop()
    running = start(training=trainer_that_waits_for(tmp_path / "gate"))
    pids = set()
    for number in (1, 2, 3):
        coordinator.send_model(number)
        coordinator.start_round(number)
        eventually(lambda: running.ask("status")["state"] == "training", what="training")
        # The data are looked at first, and the trainer starts thereafter.
        pids.add(eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"], what="the trainer"))
        close_round(coordinator, number)
        eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    coordinator.send_model(4)
    coordinator.start_round(4)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    (tmp_path / "gate").touch()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")
    assert [event.round for event in ready] == [4]
    assert pids == {running.ask("status")["experiments"][0]["trainer_pid"]}


def test_data_that_no_longer_suffice_are_told_in_the_round_after_the_one_that_closed_over_reading_them(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    first = start()
    joined(coordinator)
    first.stop()
    training = trainer_that_waits_for(tmp_path / "gate")
    training["command"] += ["--cases", "4"]
    running = start(training=training)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    close_round(coordinator, 1)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    (tmp_path / "gate").touch()
    eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"] is None, what="the trainer's end")
    coordinator.send_model(2)
    coordinator.start_round(2)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert (failed.round, failed.body.reason) == (2, Reason.TOO_FEW_CASES)


def test_two_experiments_take_turns_on_one_slot(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate
) -> None:
    running = start(training={"command": gate.trainer})
    gate.hold("site-a")
    for name in ("exp-1", "exp-2"):
        coordinator.accept(script.experiment_file(name))
    eventually(lambda: len(coordinator.of("joined")) == 2, what="both joined")
    for name in ("exp-1", "exp-2"):
        coordinator.send_model(1, name)
        coordinator.start_round(1, name)

    def waits() -> bool:
        status = running.ask("status")
        return status["running"] is not None and len(status["queue"]) == 1

    eventually(waits, what="one in the slot, one in the queue")
    gate.open("site-a")
    assert eventually(lambda: len(coordinator.of("weights-ready")) == 2, what="both updates")


def test_an_abort_ends_everything_and_frees_the_disk(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start("--seconds", "600")
    training(coordinator, running)
    coordinator.say("experiment-aborted", ExperimentAborted(), experiment="exp-1")
    eventually(lambda: running.ask("status")["experiments"][0]["phase"] == "ended", what="the end")
    eventually(lambda: not list((tmp_path / "state" / "globals").iterdir()), what="no model left")
    eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"] is None, what="the trainer's end")


def test_a_model_that_was_not_freed_since_the_agent_was_killed_as_the_experiment_ended_goes_with_the_next_start(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    first = start()
    joined(coordinator)
    coordinator.say("experiment-aborted", ExperimentAborted(), experiment="exp-1")
    eventually(lambda: first.ask("status")["experiments"][0]["phase"] == "ended", what="the end")
    first.stop()
    left = tmp_path / "state" / "globals" / "exp-1.1.coordinator.1.model"
    left.touch()
    start()
    assert not left.exists()
