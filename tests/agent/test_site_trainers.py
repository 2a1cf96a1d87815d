"""The whole agent and a trainer that fails, hangs, stops or is killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import own_trainer
import pytest
import site_consortium as script
from agent_rig import Running, Start, close_round, joined, training
from brokers import eventually
from gated_trainer import Gate

from messages.reasons import Reason
from site_agent.desk import trainer_trial
from site_agent.desk.checks import Grade
from site_agent.training.protocol import PROTOCOL


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        ("nan-loss", Reason.NAN_LOSS),
        ("die", Reason.TRAINER_DIED),
        ("words of its own", Reason.TRAINING_ERROR),
    ],
)
def test_a_round_that_fails_is_told_by_its_code(
    start: Start, coordinator: script.ScriptedCoordinator, trainer: str, reason: Reason
) -> None:
    start("--fail", trainer)
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is reason


def stuck_after(running: Running, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on so many seconds without a word are too long: a process may take its time to start."""
    assert running.agent._trainers._stuck_after == 3600
    monkeypatch.setattr(running.agent._trainers, "_stuck_after", seconds)


def test_a_trainer_without_progress_is_ended_and_told(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "site_agent.training.null", "--fail", "hang"]
    running = start(training={"command": command, "stuck_after": "1h"})
    joined(coordinator)
    stuck_after(running, monkeypatch, 1.0)
    coordinator.send_model(1)
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.TRAINER_STUCK
    assert running.ask("status")["experiments"][0]["trainer_pid"] is None


def test_a_trainer_that_stops_in_mid_round_is_replaced_and_the_next_round_trains(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate
) -> None:
    running = start(training={"command": gate.trainer, "stuck_after": "1h"})
    gate.hold("site-a")

    def experiment() -> dict[str, Any]:
        found: dict[str, Any] = running.ask("status")["experiments"][0]
        return found

    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: (experiment()["progress"] or {}).get("phase") == "training", what="progress of training")
    stopped = experiment()["trainer_pid"]
    os.kill(stopped, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as impatient:
        stuck_after(running, impatient, 1.0)
        failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert (failed.round, failed.body.reason) == (1, Reason.TRAINER_STUCK)
    gate.open("site-a")
    eventually(lambda: not Path(f"/proc/{stopped}/exe").exists(), what="the stopped process to be gone")
    close_round(coordinator, 1)
    coordinator.send_model(2)
    coordinator.start_round(2)
    assert eventually(lambda: coordinator.of("weights-ready", 2), what="the next round's update")
    assert experiment()["trainer_pid"] not in (None, stopped)


def test_a_trainer_that_is_killed_in_mid_round_is_replaced_and_the_round_is_trained(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate
) -> None:
    running = start(training={"command": gate.trainer})
    gate.hold("site-a")
    training(coordinator, running)
    killed = eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"], what="the trainer")
    os.kill(killed, signal.SIGKILL)
    gate.open("site-a")
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="the round's update")
    assert not coordinator.of("round-failed")
    assert running.ask("status")["experiments"][0]["trainer_pid"] not in (None, killed)


def test_a_trainer_that_does_not_end_when_the_agent_stops_is_killed(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.trainers.processes.TrainerProcesses.close.__defaults__", (1.0,))
    running = start("--seconds", "600")
    training(coordinator, running)
    pid = eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"], what="the trainer")
    os.kill(pid, signal.SIGSTOP)
    assert running.stop() == 0
    assert not Path(f"/proc/{pid}/exe").exists()


GPU_FAILS = """
from pathlib import Path
from site_agent.training import null
from site_agent.training.protocol import Failed

plain = null.NullTrainer._train_round

def train(self, request):
    times = Path(TIMES)
    left = int(times.read_text())
    if left == 0:
        return plain(self, request)
    times.write_text(str(left - 1))
    self._send_reply(Failed(code="gpu-error", round=request.round, detail="CUDA error: unknown error", fatal=True))

null.NullTrainer._train_round = train
raise SystemExit(null.main())
"""


def test_after_a_gpu_error_a_fresh_process_tries_once_more_and_then_the_round_is_given_up(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    times = tmp_path / "times"
    times.write_text("1")
    command = [sys.executable, "-c", GPU_FAILS.replace("TIMES", repr(str(times)))]
    running = start(training={"command": command})

    def pid() -> int:
        found: int = running.ask("status")["experiments"][0]["trainer_pid"]
        return found

    joined(coordinator)
    spoilt = pid()
    coordinator.send_model(1)
    coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="the round's update")
    assert pid() not in (None, spoilt)
    assert not coordinator.of("round-failed")
    close_round(coordinator, 1)
    times.write_text("2")
    coordinator.send_model(2)
    coordinator.start_round(2)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert (failed.round, failed.body.reason) == (2, Reason.GPU_ERROR)
    close_round(coordinator, 2)
    coordinator.send_model(3)
    coordinator.start_round(3)
    assert eventually(lambda: coordinator.of("weights-ready", 3), what="the next round's update")


KILLED_FOR_MEMORY = """
import os, signal
from pathlib import Path
from site_agent.training import null

def train(self, request):
    events = Path(EVENTS)
    count = int(events.read_text().split()[1])
    events.write_text(f"oom_kill {count + COUNTED}")  # as the kernel does it: it counts, then kills
    os.kill(os.getpid(), signal.SIGKILL)

null.NullTrainer._train_round = train
raise SystemExit(null.main())
"""


@pytest.mark.parametrize(("counted", "reason"), [(1, Reason.OUT_OF_MEMORY), (0, Reason.TRAINER_DIED)])
def test_a_trainer_killed_for_want_of_memory_is_told_from_one_killed_by_hand(
    start: Start,
    coordinator: script.ScriptedCoordinator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counted: int,
    reason: Reason,
) -> None:
    events = tmp_path / "root/sys/fs/cgroup/konsil/memory.events"
    events.parent.mkdir(parents=True)
    events.write_text("oom_kill 3")
    groups = tmp_path / "root/proc/self/cgroup"
    groups.parent.mkdir(parents=True)
    groups.write_text("0::/konsil\n")
    monkeypatch.setattr("site_agent.trainers.oom.ROOT", tmp_path / "root")
    program = KILLED_FOR_MEMORY.replace("EVENTS", repr(str(events))).replace("COUNTED", str(counted))
    start(training={"command": [sys.executable, "-c", program]})
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is reason


@pytest.mark.parametrize("version", ["none", "1.0", "1.99"])
def test_a_trainer_made_for_an_older_or_newer_minor_version_trains(
    start: Start, coordinator: script.ScriptedCoordinator, version: str
) -> None:
    start(training={"command": own_trainer.command(version)})
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_a_site_whose_trainer_knows_no_strategies_declines_where_one_asks_something_of_training(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start(training={"command": own_trainer.command("1.1")})
    coordinator.accept(script.experiment_file("exp-1", plan={"strategy": "FedProx"}))
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.UNSUPPORTED
    coordinator.accept(script.experiment_file("exp-2", plan={"strategy": "FedAdam"}))
    assert eventually(lambda: coordinator.of("joined"), what="joined")[0].experiment == "exp-2"


def test_a_site_whose_trainer_speaks_another_major_version_declines_and_preflight_says_what_to_do(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start(training={"command": own_trainer.command("2.0")})
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.UNSUPPORTED
    found = trainer_trial.hear_version(own_trainer.command("2.0"))
    assert (found.grade, found.exit_status) == (Grade.FAIL, 1)
    assert "speaks version 2.0 of the protocol, and this agent" in found.what
    assert found.advice.startswith("Update Konsil")
    assert running.stop() == 0


def test_preflight_hears_which_version_an_own_trainer_speaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert trainer_trial.hear_version(own_trainer.command(PROTOCOL)).grade is Grade.OK
    gone = trainer_trial.hear_version((str(tmp_path / "gone"),))
    assert (gone.grade, gone.exit_status) == (Grade.FAIL, 2)
    ended = trainer_trial.hear_version((sys.executable, "-c", "raise SystemExit(3)"))
    assert (ended.grade, "status 3" in ended.what) == (Grade.FAIL, True)
    monkeypatch.setattr(trainer_trial, "READY_WITHIN", 0.5)
    assert trainer_trial.hear_version(own_trainer.command("none")).grade is Grade.WARN
