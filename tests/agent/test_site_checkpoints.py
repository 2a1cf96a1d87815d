"""The whole agent and a trainer that keeps checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import site_consortium as script
from agent_rig import Start, joined
from brokers import eventually

from messages.kinds import ExperimentAborted

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
plain = null.NullTrainer._train_round

def train(self, request):
    place = Path(CACHE) / "checkpoint" / f"round-{request.round:06d}.checkpoint"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(str(request.checkpoint_seconds).encode())
    self._send_reply(CheckpointEvent(round=request.round, what="unreadable", step=0, steps=0))
    self._send_reply(CheckpointEvent(round=request.round, what="resumed", step=120, steps=300))
    while Path(GATE).exists():
        time.sleep(0.02)
    plain(self, request)

null.NullTrainer._train_round = train
raise SystemExit(null.main())
"""


def resuming(tmp_path: Path) -> dict[str, Any]:
    """`[training]` with a trainer that says that it resumed, trains on once `tmp_path/gate` is gone, and takes half a
    second to save what it has."""
    program = RESUMING.replace("CACHE", repr(str(tmp_path / "state" / "cache" / "exp-1")))
    program = program.replace("GATE", repr(str(tmp_path / "gate")))
    return {"command": [sys.executable, "-c", program], "checkpoint_every": "7m"}


def test_a_resumed_round_is_shown_and_its_checkpoint_goes_when_the_update_is_receipted(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    running = start(training=resuming(tmp_path))
    folder = tmp_path / "state" / "cache" / "exp-1" / "checkpoint"
    joined(coordinator)
    coordinator.receipting = False
    coordinator.send_model(1)
    coordinator.start_round(1)
    shown = lambda: running.ask("status")["experiments"][0]  # noqa: E731
    assert eventually(lambda: shown()["resumed_at_step"], what="the step in the status") == 120
    gate.unlink()
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
    counted = {r.name: r for r in running.agent._read_figures()}["konsil_checkpoints_total"]
    assert sorted(value for _, value in counted.samples) == [1.0, 1.0]


def test_a_trainer_at_work_may_save_what_it_has_when_the_agent_stops(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    (tmp_path / "gate").touch()
    running = start(training=resuming(tmp_path))
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: running.ask("status")["experiments"][0]["resumed_at_step"], what="training")
    pid = running.ask("status")["experiments"][0]["trainer_pid"]
    assert running.stop() == 0
    assert eventually(lambda: coordinator.of("leaving"), what="its leaving")
    assert (tmp_path / "state" / "cache" / "exp-1" / "saved").exists()
    assert not Path(f"/proc/{pid}/exe").exists()


def test_without_room_for_a_checkpoint_none_is_written_and_the_round_is_trained(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.trainers.requests._COPIES", 2**50)
    start(training=resuming(tmp_path))
    joined(coordinator)
    coordinator.receipting = False
    coordinator.send_model(1)
    coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    held = tmp_path / "state" / "cache" / "exp-1" / "checkpoint" / "round-000001.checkpoint"
    assert held.read_bytes() == b"None"
