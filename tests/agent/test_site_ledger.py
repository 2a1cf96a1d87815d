"""The whole agent and the record of what left the site."""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path

import pytest
import site_consortium as script
from agent_rig import Start, joined, through_rounds
from brokers import eventually

from messages.ground.errors import WorkFailed
from messages.tensors.transfer import TransferKey
from site_agent.disk import ledger
from site_agent.disk.spool import Spool


def test_every_event_and_update_is_on_record_while_the_agent_runs(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    began = time.time()
    start()
    through_rounds(coordinator, 1, 2)
    sent = {one.id: one for kind in ("joined", "round-accepted", "weights-ready") for one in coordinator.of(kind)}
    of = lambda kind: [one for one in ledger.read_ledger(tmp_path / "state", "exp-1") if one.kind == kind]  # noqa: E731
    eventually(lambda: all(one.settled for one in of("weights-ready")), what="receipts")
    assert sorted(
        (one.kind, one.round, one.bytes) for one in ledger.read_ledger(tmp_path / "state", "exp-1")
    ) == sorted(
        [(one.kind, one.round, len(one.raw)) for one in sent.values()]
        + [("update", number, coordinator.sealed(number)[0].manifest.nbytes) for number in (1, 2)]
    )
    assert {one.id: one.digest for one in of("weights-ready")} == {
        one.id: sha256(one.raw).hexdigest() for one in coordinator.of("weights-ready")
    }
    assert [one.digest for one in of("update")] == [one.body.transfer.seal for one in coordinator.of("weights-ready")]
    assert all(began <= one.time <= time.time() for one in of("update"))
    assert ledger.read_ledger(tmp_path / "state", since=time.time() + 60) == []
    assert ledger.read_ledger(tmp_path / "state", "exp-2") == []


def test_an_event_without_a_receipt_is_on_record_as_such(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.receipting = False
    start()
    joined(coordinator)
    (one,) = [one for one in ledger.read_ledger(tmp_path / "state") if one.kind == "joined"]
    assert not one.settled


def test_no_chunk_leaves_before_it_is_on_record(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.sender.AGAIN_AFTER", 0.1)
    failed: list[bool] = []
    plain = Spool.note_leaving

    def leaving(self: Spool, key: TransferKey, size: int, now: float, seal: str) -> None:
        if len(failed) < 3:
            failed.append(not coordinator.chunks)
            raise WorkFailed("the disk is full")
        plain(self, key, size, now, seal)

    monkeypatch.setattr(Spool, "note_leaving", leaving)
    start()
    through_rounds(coordinator, 1)
    assert failed == [True, True, True]
    coordinator.update(coordinator.of("weights-ready")[0])
