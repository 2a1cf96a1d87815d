"""A simulation waits for no disk; a service always does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.record.journal import Journal
from messages.ground.durable import replace_file, without_syncing
from site_agent.disk.spool import Spool

FULL, OFF = 2, 0
"""PRAGMA synchronous."""


def levels(folder: Path) -> set[int]:
    """What the databases of both services are set to."""
    spool, journal = Spool(folder / "site"), Journal(folder / "coordinator")
    try:
        return {int(one._db.execute("PRAGMA synchronous").fetchone()[0]) for one in (spool, journal)}
    finally:
        spool.close()
        journal.close()


def test_databases_and_files_wait_for_the_disk_but_within_a_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with without_syncing():
        assert levels(tmp_path / "simulated") == {OFF}
        replace_file(tmp_path / "file", b"", durable=True)
    assert synced == []
    assert levels(tmp_path / "real") == {FULL}
    replace_file(tmp_path / "file", b"", durable=True)
    assert len(synced) == 2
