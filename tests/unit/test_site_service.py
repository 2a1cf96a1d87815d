"""The whole agent on the bus in memory, against a scripted coordinator, with the null trainer's real processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import site_consortium as script
from brokers import eventually

from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.errors import NameTaken, RequestError, Unreachable
from messages.kinds import (
    ChunksWanted,
    CoordinatorHello,
    ExperimentAborted,
    ExperimentChecked,
    RoundComplete,
    Standing,
)
from messages.reasons import Reason
from messages.tensor_codecs import CodecName
from site_agent import control
from site_agent.config import SiteConfig
from site_agent.data_guard import Look, look_at
from site_agent.datasets.config import DatasetConfig
from site_agent.service import Agent
from site_agent.training.null import addend


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
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.result[0]

    def answers(self) -> bool:
        try:
            return bool(self.ask("status"))
        except Unreachable:
            return False

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        return control.ask(self.config.site.state, {"do": do, **more})


Start = Callable[..., Running]


@pytest.fixture
def broker() -> MemoryBroker:
    return script.broker()


@pytest.fixture
def coordinator(broker: MemoryBroker) -> Iterator[script.ScriptedCoordinator]:
    one = script.ScriptedCoordinator(broker)
    yield one
    one.bus.close()


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


def joined(coordinator: script.ScriptedCoordinator) -> None:
    coordinator.accept()
    eventually(lambda: coordinator.of("joined"), what="joined")


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
        name: value + addend(7, "site-a", 1).astype(value.dtype) for name, value in coordinator.model(1).items()
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(update[name], value)
    assert ready.body.cases_used == 28
    # 4 validation cases are fewer than the floor of 5: only their number is told.
    assert ready.body.validation.withheld
    assert ready.body.validation.metrics == {}


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16-difference"])
def test_an_update_leaves_in_the_experiments_codec(
    start: Start, coordinator: script.ScriptedCoordinator, codec: CodecName
) -> None:
    start()
    coordinator.codec = "bfloat16"
    coordinator.accept(script.experiment_file(wire={"codec": codec}))
    eventually(lambda: coordinator.of("joined"), what="joined")
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert ready.body.transfer.manifest.codec == codec
    assert ready.body.transfer.manifest.nbytes == 1500 * 2 + 3 * 8
    update = coordinator.update(ready)
    step = addend(7, "site-a", 1)  # a byte over 256: as a difference from 1 it needs 8 bits, and added to 1 it needs 9
    expected = step if codec == "bfloat16-difference" else np.rint((1 + step) * 128) / 128
    np.testing.assert_array_equal(update["w"], np.full(1500, expected))
    np.testing.assert_array_equal(update["b"], np.arange(3) + float(step))


def test_a_codec_that_the_policy_does_not_name_is_declined(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start(policy={"approval": "auto", "allow": [{"codecs": ["float32"]}]})
    coordinator.accept(script.experiment_file(wire={"codec": "bfloat16"}))
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.CODEC_NOT_ALLOWED


def test_missing_chunks_of_a_global_model_are_asked_for(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.receiver.FIRST_ASK", 0.2)
    start()
    joined(coordinator)
    coordinator.send_model(1, skip=(2, 4))
    coordinator.start_round(1)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert wanted.body.chunks == [2, 4]
    coordinator.send_model(1)
    assert eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")


def test_chunks_of_an_update_are_sent_again_when_wanted(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    coordinator.receipting = False
    start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    complete = coordinator.update(ready)
    (key,) = coordinator.chunks
    del coordinator.chunks[key][3]
    transfer = ready.body.transfer
    body = ChunksWanted(round=1, attempt=1, seal=transfer.seal, chunks=[3])
    coordinator.say("chunks-wanted", body, experiment="exp-1", round_number=1, to="site-a")
    eventually(lambda: 3 in coordinator.chunks[key], what="chunk 3")
    np.testing.assert_array_equal(coordinator.update(ready)["w"], complete["w"])


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
    assert coordinator.of("leaving")
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
    first = start("--seconds", "30")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: first.ask("status")["state"] == "training", what="training")
    first.stop()
    start()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    np.testing.assert_array_equal(coordinator.update(ready)["w"], coordinator.model(1)["w"] + addend(7, "site-a", 1))
    assert ready.body.transfer.attempt == 1


def test_a_newer_round_wins_and_the_old_one_is_dropped(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start("--seconds", "3")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    coordinator.send_model(2)
    coordinator.start_round(2)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")
    assert [event.round for event in ready] == [2]


def test_a_round_that_closed_is_left(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start("--seconds", "60")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    close_round(coordinator, 1)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    assert not coordinator.of("weights-ready")


def trainer_that_waits_for(gate: Path) -> dict[str, Any]:
    """The null trainer, which starts only once a file is there."""
    wait = 'while [ ! -e "$0" ]; do sleep 0.05; done; exec "$@"'
    return {"command": ["sh", "-c", wait, str(gate), sys.executable, "-m", "site_agent.training.null"]}


def close_round(coordinator: script.ScriptedCoordinator, number: int) -> None:
    body = RoundComplete(contributors={}, left_out={"site-a": Reason.ABSENT}, model_digest="0" * 64, seconds=1.0)
    coordinator.say("round-complete", body, experiment="exp-1", round_number=number)


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
        pids.add(running.ask("status")["experiments"][0]["trainer_pid"])
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


def test_both_candidates_are_scored_once_on_validation_and_test(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    coordinator.send_model(2)
    scored = eventually(lambda: coordinator.of("evaluated"), what="evaluated")[0]
    assert {label: one.model_digest[0] for label, one in scored.body.scores.items()} == {
        "final": "1",
        "selected": "2",
    }
    test = scored.body.scores["final"].splits["test"]
    assert test.cases == 8
    assert test.metrics["dice"]["WT"].sum == pytest.approx(4.0)
    assert test.rows is None


def through_rounds(coordinator: script.ScriptedCoordinator, *numbers: int) -> None:
    joined(coordinator)
    for number in numbers:
        coordinator.send_model(number)
        coordinator.start_round(number)
        eventually(lambda n=number: coordinator.of("weights-ready", n), what="weights-ready")  # type: ignore[misc]


def test_a_chosen_model_that_comes_before_the_evaluation_is_announced_is_not_asked_for(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start()
    through_rounds(coordinator, 2, 3)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    coordinator.send_model(4)
    coordinator.send_model(1)  # a model that another site asked for again: room is kept for one
    coordinator.send_model(2)
    parts = tmp_path / "state" / "globals"
    names = {"exp-1.2.coordinator.1.part", "exp-1.4.coordinator.1.part"}
    eventually(lambda: {path.name for path in parts.glob("*.part")} == names, what="both models, early")
    coordinator.start_evaluation(4, selected=2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")
    assert not coordinator.of("chunks-wanted")


def test_a_chosen_model_that_its_round_sent_in_a_codec_is_scored_from_its_exact_bytes(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.receiver.SOON", 0.2)
    start()
    coordinator.codec = "bfloat16"
    through_rounds(coordinator, 2)
    coordinator.codec, coordinator.attempts = "float32", {2: 2}
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert (wanted.body.round, wanted.body.attempt, wanted.body.seal) == (2, 2, coordinator.sealed(2)[0].seal)
    coordinator.send_model(2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")


def test_a_chosen_model_whose_chunks_came_too_early_is_asked_for_soon(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.receiver.FIRST_ASK", 3600.0)
    start()
    through_rounds(coordinator, 2, 3)
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert (wanted.body.round, wanted.body.chunks) == (2, None)
    coordinator.send_model(2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")


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


def test_a_trainer_without_progress_is_ended_and_told(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    command = [sys.executable, "-m", "site_agent.training.null", "--fail", "hang"]
    running = start(training={"command": command, "stuck_after": "6s"})
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.TRAINER_STUCK
    assert running.ask("status")["experiments"][0]["trainer_pid"] is None


def test_a_trainer_that_stops_in_mid_round_is_replaced_and_the_next_round_trains(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    command = [sys.executable, "-m", "site_agent.training.null", "--seconds", "3"]
    running = start(training={"command": command, "stuck_after": "6s"})

    def experiment() -> dict[str, Any]:
        found: dict[str, Any] = running.ask("status")["experiments"][0]
        return found

    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: (experiment()["progress"] or {}).get("phase") == "training", what="progress of training")
    stopped = experiment()["trainer_pid"]
    os.kill(stopped, signal.SIGSTOP)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert (failed.round, failed.body.reason) == (1, Reason.TRAINER_STUCK)
    eventually(lambda: not Path(f"/proc/{stopped}/exe").exists(), what="the stopped process to be gone")
    close_round(coordinator, 1)
    coordinator.send_model(2)
    coordinator.start_round(2)
    assert eventually(lambda: coordinator.of("weights-ready", 2), what="the next round's update")
    assert experiment()["trainer_pid"] not in (None, stopped)


def test_a_trainer_that_is_killed_in_mid_round_is_replaced_and_the_round_is_trained(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start("--seconds", "2")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    killed = eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"], what="the trainer")
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="the round's update")
    assert not coordinator.of("round-failed")
    assert running.ask("status")["experiments"][0]["trainer_pid"] not in (None, killed)


RESUMING = """
import signal, sys, time
from pathlib import Path
from site_agent.training import null
from site_agent.training.protocol import CheckpointEvent

def save(*_):
    time.sleep(0.5)
    (Path(CACHE) / "saved").touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, save)
plain = null.NullTrainer._train

def train(self, request):
    place = Path(CACHE) / "checkpoint" / f"round-{request.round:06d}.checkpoint"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(str(request.checkpoint_seconds).encode())
    self._say(CheckpointEvent(round=request.round, what="unreadable", step=0, steps=0))
    self._say(CheckpointEvent(round=request.round, what="resumed", step=120, steps=300))
    plain(self, request)

null.NullTrainer._train = train
raise SystemExit(null.main())
"""


def resuming(tmp_path: Path, seconds: float) -> dict[str, Any]:
    """`[training]` with a trainer that says that it resumed, and takes half a second to save what it has."""
    program = RESUMING.replace("CACHE", repr(str(tmp_path / "state" / "cache" / "exp-1")))
    return {"command": [sys.executable, "-c", program, "--seconds", str(seconds)], "checkpoint_every": "7m"}


def test_a_resumed_round_is_shown_and_its_checkpoint_goes_when_the_update_is_receipted(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start(training=resuming(tmp_path, 2.0))
    folder = tmp_path / "state" / "cache" / "exp-1" / "checkpoint"
    joined(coordinator)
    coordinator.receipting = False
    coordinator.send_model(1)
    coordinator.start_round(1)
    shown = lambda: running.ask("status")["experiments"][0]  # noqa: E731
    assert eventually(lambda: shown()["resumed_at_step"], what="the step in the status") == 120
    ready = eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")[0]
    assert shown()["resumed_at_step"] is None
    assert (folder / "round-000001.checkpoint").read_bytes() == b"420.0"
    (folder / "round-000002.checkpoint").touch()
    coordinator.receipt(ready)
    eventually(lambda: [path.name for path in folder.iterdir()] == ["round-000002.checkpoint"], what="it to be removed")
    coordinator.receipting = True
    coordinator.say("experiment-aborted", ExperimentAborted(), experiment="exp-1")
    eventually(lambda: not [*folder.iterdir()], what="nothing to be left of an experiment that ended")
    said = capsys.readouterr().out
    assert "training resumed from its checkpoint" in said
    assert "checkpoint is damaged" in said
    counted = {r.name: r for r in running.agent._read()}["konsil_checkpoints_total"]
    assert sorted(value for _, value in counted.samples) == [1.0, 1.0]


def test_a_trainer_at_work_may_save_what_it_has_when_the_agent_stops(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start(training=resuming(tmp_path, 600.0))
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["experiments"][0]["resumed_at_step"], what="training")
    pid = running.ask("status")["experiments"][0]["trainer_pid"]
    assert running.stop() == 0
    assert coordinator.of("leaving")
    assert (tmp_path / "state" / "cache" / "exp-1" / "saved").exists()
    assert not Path(f"/proc/{pid}/exe").exists()


def test_a_trainer_that_does_not_end_when_the_agent_stops_is_killed(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.trainers.Trainers.close.__defaults__", (1.0,))
    running = start("--seconds", "600")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    pid = eventually(lambda: running.ask("status")["experiments"][0]["trainer_pid"], what="the trainer")
    os.kill(pid, signal.SIGSTOP)
    assert running.stop() == 0
    assert not Path(f"/proc/{pid}/exe").exists()


def test_without_room_for_a_checkpoint_none_is_written_and_the_round_is_trained(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.workshop._COPIES", 2**50)
    start(training=resuming(tmp_path, 0.0))
    joined(coordinator)
    coordinator.receipting = False
    coordinator.send_model(1)
    coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    held = tmp_path / "state" / "cache" / "exp-1" / "checkpoint" / "round-000001.checkpoint"
    assert held.read_bytes() == b"None"


GPU_FAILS = """
from pathlib import Path
from site_agent.training import null
from site_agent.training.protocol import Failed

plain = null.NullTrainer._train

def train(self, request):
    times = Path(TIMES)
    left = int(times.read_text())
    if left == 0:
        return plain(self, request)
    times.write_text(str(left - 1))
    self._say(Failed(code="gpu-error", round=request.round, detail="CUDA error: unknown error", fatal=True))

null.NullTrainer._train = train
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

null.NullTrainer._train = train
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
    monkeypatch.setattr("site_agent.oom.ROOT", tmp_path / "root")
    program = KILLED_FOR_MEMORY.replace("EVENTS", repr(str(events))).replace("COUNTED", str(counted))
    start(training={"command": [sys.executable, "-c", program]})
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is reason


def data_on_disk(folder: Path) -> tuple[dict[str, Any], Path]:
    """A data set's section of site.toml, and one of its images."""
    image = folder / "case-1" / "case-1-t1.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"voxels")
    return {"glioma": {"source": "brats", "path": str(folder), "labels": {3: "ET"}}}, image


def test_a_data_set_that_changed_or_is_gone_between_rounds_is_told_though_the_trainer_is_warm(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, image = data_on_disk(tmp_path / "data")
    status = image.stat()
    running = start(datasets=datasets)
    through_rounds(coordinator, 1)
    pid = running.ask("status")["experiments"][0]["trainer_pid"]

    def outcome(number: int) -> Reason | None:
        coordinator.send_model(number)
        coordinator.start_round(number)
        failed = lambda: coordinator.of("round-failed", number)  # noqa: E731
        eventually(lambda: failed() or coordinator.of("weights-ready", number), what="the round's end")
        return failed()[0].body.reason if failed() else None

    image.write_bytes(b"other voxels")
    assert outcome(2) is Reason.DATASET_CHANGED
    image.write_bytes(b"voxels")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert outcome(3) is None
    away = (tmp_path / "data").rename(tmp_path / "away")
    assert outcome(4) is Reason.DATASET_GONE
    (tmp_path / "data").mkdir()  # a mount point without its mount
    assert outcome(5) is Reason.DATASET_GONE
    (tmp_path / "data").rmdir()
    away.rename(tmp_path / "data")
    assert outcome(6) is None
    assert running.ask("status")["experiments"][0]["trainer_pid"] == pid


def test_a_file_more_a_file_less_and_a_lost_permission_are_told_and_when_all_is_back_the_site_trains_again(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_roots_rights(config: DatasetConfig) -> Look:
        # Root may read everything: this thread looks as nobody does (setfsuid(2) is of one thread).
        ctypes.CDLL(None).setfsuid(65534)
        return look_at(config)

    monkeypatch.setattr("site_agent.data_guard.look_at", without_roots_rights)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as outside:  # pytest's own folder is closed to others
        os.chmod(outside, 0o755)
        folder = Path(outside) / "data"
        datasets, image = data_on_disk(folder)
        os.chmod(folder, 0o755)
        os.chmod(image.parent, 0o755)
        start(datasets=datasets)
        through_rounds(coordinator, 1)

        def outcome(number: int) -> Reason | None:
            coordinator.send_model(number)
            coordinator.start_round(number)
            failed = lambda: coordinator.of("round-failed", number)  # noqa: E731
            eventually(lambda: failed() or coordinator.of("weights-ready", number), what="the round's end")
            return failed()[0].body.reason if failed() else None

        added = image.parent / "case-1-seg.nii.gz"
        added.touch()
        assert outcome(2) is Reason.DATASET_CHANGED
        added.unlink()
        assert outcome(3) is None
        away = image.rename(Path(outside) / "away")
        assert outcome(4) is Reason.DATASET_GONE  # it was the only one
        away.rename(image)
        assert outcome(5) is None
        os.chmod(folder, 0o000)
        assert outcome(6) is Reason.DATASET_GONE
        os.chmod(folder, 0o755)
        assert outcome(7) is None
        os.chmod(image.parent, 0o000)
        assert outcome(8) is Reason.DATASET_CHANGED  # one of its folders
        os.chmod(image.parent, 0o755)
        assert outcome(9) is None


def test_an_experiment_whose_data_set_is_gone_is_declined(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, _ = data_on_disk(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "away")
    start(datasets=datasets)
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.DATASET_GONE


def test_a_data_set_that_changed_while_the_agent_was_down_is_told(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, image = data_on_disk(tmp_path / "data")
    first = start(datasets=datasets)
    through_rounds(coordinator, 1)
    first.stop()
    (image.parent / "case-1-seg.nii.gz").write_bytes(b"a label that came later")
    start(datasets=datasets)
    coordinator.send_model(2)
    coordinator.start_round(2)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.DATASET_CHANGED


def test_a_stranger_is_declined_with_a_code(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    start(policy={"approval": "auto", "allow": [{"researchers": ["dr-b"]}]})
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.RESEARCHER_NOT_ALLOWED
    assert not coordinator.of("joined")


def test_too_few_cases_are_declined_with_their_counts(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    start("--cases", "4")
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.TOO_FEW_CASES
    assert declined.body.cases.used == 4


def test_approval_by_hand_waits_for_the_operator(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start(policy={"approval": "hand", "allow": [{}]})
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.AWAITS_APPROVAL
    with pytest.raises(RequestError, match="awaits approval"):
        running.ask("approve", experiment="exp-2")
    running.ask("approve", experiment="exp-1")
    assert eventually(lambda: coordinator.of("joined"), what="joined")


def test_a_paused_site_refuses_rounds_and_goes_on_when_resumed(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start()
    joined(coordinator)
    assert running.ask("pause")["state"] == "paused"
    coordinator.start_round(1)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.SITE_PAUSED
    running.ask("resume")
    coordinator.send_model(2)
    coordinator.start_round(2)
    assert eventually(lambda: coordinator.of("weights-ready", 2), what="weights-ready")


def test_outside_the_hours_new_work_waits(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    now = datetime.now()
    hours = f"{now + timedelta(hours=3):%H:%M}-{now + timedelta(hours=4):%H:%M}"
    running = start(limits={"hours": hours})
    coordinator.accept()
    eventually(lambda: running.ask("status")["queue"] == ["exp-1"], what="the experiment to wait")
    assert not coordinator.of("joined")
    assert running.ask("status")["within_hours"] is False


def test_a_drained_site_finishes_and_goes(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start("--seconds", "1")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    running.ask("drain")
    running.thread.join(20)
    assert running.result == [0]
    assert coordinator.of("weights-ready", 1)
    assert coordinator.of("leaving")


def test_an_older_term_is_refused_and_counted(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start()
    new = Author(script.CONSORTIUM, "coordinator", 1, 5)
    coordinator.say("coordinator-hello", CoordinatorHello(versions={}), author=new)
    coordinator.accept()  # of term 1
    eventually(lambda: running.ask("status")["refused_messages"].get("old-term") == 1, what="the refusal")
    assert len(eventually(lambda: coordinator.of("hello")[1:], what="hello to the new term")) == 1
    assert not coordinator.of("joined")


def test_a_standing_brings_what_the_site_missed(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    old = Author(script.CONSORTIUM, "coordinator", 1, 1)
    coordinator.author = Author(script.CONSORTIUM, "coordinator", 2, 2)
    start()
    eventually(lambda: coordinator.of("hello"), what="hello")
    new, coordinator.author = coordinator.author, old
    plain = script.experiment_file()
    written: list[bytes] = []
    coordinator.say = lambda kind, body, **more: written.append(  # type: ignore[method-assign,assignment]
        old.write(kind, body, time=0.0, experiment=more["experiment"], round_number=more.get("round_number", 0)).raw
    )
    coordinator.accept(plain)
    coordinator.start_round(1)
    del coordinator.say  # type: ignore[method-assign]
    coordinator.author = new
    coordinator.say("standing", Standing(state="training", events=written), experiment="exp-1", to="site-a")
    eventually(lambda: coordinator.of("joined"), what="joined")
    eventually(lambda: coordinator.of("round-accepted", 1), what="round-accepted")
    coordinator.send_model(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_an_abort_ends_everything_and_frees_the_disk(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start("--seconds", "60")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    coordinator.say("experiment-aborted", ExperimentAborted(), experiment="exp-1")
    eventually(lambda: running.ask("status")["experiments"][0]["phase"] == "ended", what="the end")
    eventually(lambda: not list((tmp_path / "state" / "globals").iterdir()), what="no model left")
    assert running.ask("status")["experiments"][0]["trainer_pid"] is None


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


def test_two_experiments_take_turns_on_one_slot(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start("--seconds", "1")
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
    assert eventually(lambda: len(coordinator.of("weights-ready")) == 2, what="both updates")


def test_a_check_is_answered_without_joining(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    start()
    body = ExperimentChecked(experiment=script.experiment_file(), researcher="dr-x", nonce="0" * 32)
    eventually(lambda: coordinator.of("hello"), what="hello")
    coordinator.say("experiment-checked", body, experiment="exp-1")
    answer = eventually(lambda: [e for e in coordinator.live if e.kind == "check-answer"], what="an answer")[0]
    assert (answer.body.accepts, answer.body.reason) == (False, Reason.RESEARCHER_NOT_ALLOWED)
    assert not coordinator.of("declined")


def test_a_lost_broker_is_shown_and_the_agent_goes_on(
    start: Start, broker: MemoryBroker, coordinator: script.ScriptedCoordinator
) -> None:
    running = start("--seconds", "1")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["state"] == "training", what="training")
    broker.stop()
    eventually(lambda: running.ask("status")["broker"] == "lost", what="the loss to be shown")
    eventually(lambda: running.ask("status")["state"] == "sending", what="the update")
    broker.start()
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    assert len(coordinator.of("hello")) >= 2


def test_two_agents_on_one_state_directory_or_one_name_are_refused(
    start: Start, broker: MemoryBroker, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start()
    eventually(lambda: coordinator.of("hello"), what="hello")
    with pytest.raises(RequestError, match="another agent works on this state directory"):
        Running(broker, script.site_config(tmp_path / "state"))
    elsewhere = script.site_config(tmp_path / "other")
    twin = Agent(elsewhere, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
    with pytest.raises(NameTaken) as refused:
        twin.run()
    assert refused.value.exit_status == 2


def fill(database: sqlite3.Connection) -> None:
    """Write until nothing more goes in."""
    for number in range(100_000):
        database.execute("INSERT INTO seen VALUES (?, 0)", (f"filler-{number}",))


def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    joined(coordinator)
    eventually(lambda: running.ask("status")["unreceipted"] == 0, what="quiet")
    spool = running.agent.spool
    with spool._guard:
        # SQLite says "database or disk is full" at this many pages.
        spool._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            fill(spool._db)
    seen: list[str] = []
    see = spool.see

    def counting(identity: str, now: float) -> bool:
        seen.append(identity)
        return see(identity, now)

    monkeypatch.setattr(spool, "see", counting)
    coordinator.send_model(1)
    announced = coordinator.start_round(1)
    eventually(lambda: seen.count(announced.id) >= 2, what="the event to be tried again")
    assert not coordinator.of("round-accepted")
    with spool._guard:
        spool._db.execute(f"PRAGMA max_page_count = {2**30}")
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_a_damaged_model_on_disk_is_fetched_again_after_a_restart(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.receiver.FIRST_ASK", 0.2)
    first = start("--seconds", "30")
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: first.ask("status")["state"] == "training", what="training")
    first.stop()
    (model,) = (tmp_path / "state" / "globals").iterdir()
    model.write_bytes(b"\xff" * model.stat().st_size)
    start()
    eventually(lambda: coordinator.of("chunks-wanted") or coordinator.of("weights-ready"), what="asking")
    coordinator.send_model(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    np.testing.assert_array_equal(coordinator.update(ready)["w"], coordinator.model(1)["w"] + addend(7, "site-a", 1))
