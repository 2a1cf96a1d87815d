"""The whole agent and updates that leave while they are written: nothing twice, nothing too early, no other bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_consortium as script
from agent_rig import Start, close_round, joined
from brokers import eventually
from patched_trainer import HALFWAY, trainer

from messages.ground.clock import SystemClock
from messages.kinds import ChunksWanted
from messages.reasons import Reason
from site_agent.disk import ledger
from site_agent.wire.sender import SentMark

DIES_ONCE = """
import os, signal
import numpy as np
from site_agent.training.null import _Moved

def write(path, arrays, update, received, *, on_chunks, plain=null.write_update, **more):
    again = (HERE / "died").exists()
    def told(first, digests):
        on_chunks(first, digests)
        if not again:
            (HERE / "died").touch()
            while not (HERE / "go").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
    moved = arrays if again else _Moved(received, np.float32(99))
    plain(path, moved, update, received, on_chunks=told, **more)
"""
"""The first process dies in the middle of its update; the second one's is another."""

NO_CASES = """
def say(self, reply, plain=null.NullTrainer._send_reply):
    plain(self, reply.model_copy(update={"cases": 0}) if isinstance(reply, Written | Trained) else reply)
"""

SILENT = """
def write(*args, on_chunks, plain=null.write_update, **more):
    plain(*args, **more)
"""

LIES_ONCE = """
def say(self, reply, plain=null.NullTrainer._send_reply):
    if isinstance(reply, Written) and reply.attempt == 1:
        reply = reply.model_copy(update={"digests": [sha256(one).digest() for one in reply.digests]})
    plain(self, reply)
"""


def begin(coordinator: script.ScriptedCoordinator, number: int = 1) -> None:
    coordinator.send_model(number)
    coordinator.start_round(number)


def arrived(coordinator: script.ScriptedCoordinator) -> set[int]:
    return {index for chunks in coordinator.chunks.values() for index in chunks}


def test_chunks_leave_while_the_rest_is_written_and_none_goes_twice(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start(training=trainer(tmp_path, HALFWAY))
    joined(coordinator)
    begin(coordinator)
    eventually(lambda: arrived(coordinator) == {0, 1, 2, 3}, what="the first chunks")
    assert running.ask("status")["state"] == "training"
    assert not coordinator.of("weights-ready")
    (tmp_path / "go").touch()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert set(coordinator.update(ready)) == {"w", "b"}
    assert running.agent._sender.bytes_up == ready.body.transfer.manifest.nbytes


def test_what_another_process_writes_anew_goes_anew(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start(training=trainer(tmp_path, DIES_ONCE))
    joined(coordinator)
    begin(coordinator)
    eventually(lambda: arrived(coordinator) == {0, 1, 2, 3}, what="chunks of the process that dies")
    (first,) = [dict(chunks) for chunks in coordinator.chunks.values()]
    (tmp_path / "go").touch()
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    coordinator.update(ready)  # its chunks are those that are sealed
    (chunks,) = coordinator.chunks.values()
    assert chunks[0] != first[0]


@pytest.mark.parametrize("patch", [HALFWAY, DIES_ONCE], ids=["same bits", "other bits"])
def test_a_restarted_agent_sends_what_had_not_left_and_what_is_another_update_now(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: str
) -> None:
    monkeypatch.setattr("site_agent.wire.sender.MARK_EVERY", 0.0)
    first = start(training=trainer(tmp_path, patch))
    joined(coordinator)
    begin(coordinator)
    eventually(lambda: arrived(coordinator) == {0, 1, 2, 3}, what="the first chunks")
    assert first.stop() == 0
    mark = SentMark(tmp_path / "state" / "updates" / "exp-1.1.site-a.1.update", SystemClock()).read_digests()
    assert mark
    (tmp_path / "go").touch()
    held = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "state" / "updates") not in held  # by an agent that ended
    second = start(training=trainer(tmp_path, patch))
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    coordinator.update(ready)
    kept = 0 if patch is DIES_ONCE else len(mark)
    assert second.agent._sender.bytes_up == ready.body.transfer.manifest.nbytes - kept * 1024


def test_of_a_round_that_is_over_nothing_more_is_sent_or_kept_open(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start(training=trainer(tmp_path, HALFWAY))
    joined(coordinator)
    begin(coordinator)
    eventually(lambda: arrived(coordinator) == {0, 1, 2, 3}, what="the first chunks")
    close_round(coordinator, 1)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    (tmp_path / "go").touch()
    begin(coordinator, 2)
    ready = eventually(lambda: coordinator.of("weights-ready", 2), what="weights-ready")[0]
    coordinator.update(ready)
    left = {one.round: one.bytes for one in ledger.read_ledger(tmp_path / "state") if one.kind == "update"}
    assert left == dict.fromkeys((1, 2), ready.body.transfer.manifest.nbytes)  # what began to leave is on record, too
    assert {key.round: len(chunks) for key, chunks in coordinator.chunks.items()} == {1: 4, 2: 6}
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert not [line for line in held if ".1.site-a" in line]


def test_an_update_of_too_few_cases_never_leaves(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start(training=trainer(tmp_path, NO_CASES))
    joined(coordinator)
    begin(coordinator)
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.TOO_FEW_CASES
    assert not coordinator.chunks


def test_an_update_that_its_trainer_did_not_hash_is_hashed_by_the_agent(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start(training=trainer(tmp_path, SILENT))
    joined(coordinator)
    begin(coordinator)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert set(coordinator.update(ready)) == {"w", "b"}


def test_a_trainer_whose_digests_are_wrong_costs_an_attempt(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.receipting = False
    start(training=trainer(tmp_path, LIES_ONCE))
    joined(coordinator)
    begin(coordinator)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert not coordinator.chunks  # none that matches its digest came
    assert coordinator.set_aside == ready.body.transfer.manifest.chunks
    wanted = ChunksWanted(round=1, attempt=1, seal=ready.body.transfer.seal, chunks=None)
    coordinator.say("chunks-wanted", wanted, experiment="exp-1", round_number=1, to="site-a")
    again = lambda: [one for one in coordinator.of("weights-ready") if one.body.transfer.attempt == 2]  # noqa: E731
    coordinator.update(eventually(again, what="another attempt")[0])
