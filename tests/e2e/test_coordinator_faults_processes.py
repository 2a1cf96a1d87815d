"""The coordinator as a real process on a real broker: twins, one that was stopped and comes back, backup, restore."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually
from e2e_rig import SITES, Rig, running
from fault_rig import FaultRig

from coordinator.record import archive
from coordinator.record.journal import open_readonly
from coordinator.record.recovery import recover_states
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

LONG = 600.0
ROUNDS = {"count": 4}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    """One consortium for all. Each test leaves its services running; the last one leaves the journal behind."""
    with running(tmp_path_factory.mktemp("coordinator"), FaultRig) as started:
        started.calm(rounds=ROUNDS)
        yield started


def konsil(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)


def config(rig: FaultRig) -> str:
    return str(rig.consortium.config_of(COORDINATOR))


def twin(rig: Rig, state: Path) -> Path:
    """A configuration of the coordinator with another state folder, which notices a half-open connection sooner."""
    text = rig.consortium.config_of(COORDINATOR).read_text().replace(f'"{rig.layout.coordinator}"', f'"{state}"')
    path = rig.layout.run / f"twin-{state.name}.toml"
    path.write_text(text.replace("[broker]", "[broker]\nheartbeat_seconds = 5"))
    return path


def last_words(log: Path) -> list[str]:
    text = log.read_text()
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("konsil")]


def completed(rig: Rig, identity: str) -> int:
    state = recover_states(open_readonly(rig.layout.coordinator)).get(identity)
    return state.completed if state is not None else 0


def test_a_second_coordinator_is_refused_with_status_2_by_the_journals_lock_and_by_the_inbox(rig: FaultRig) -> None:
    one = rig.small("second")
    rig.publish(one)  # so the first one has taken its locks
    same = rig.start_with("same", "coordinator", rig.consortium.config_of(COORDINATOR))
    other = rig.start_with("other", "coordinator", twin(rig, rig.layout.run / "other-state"))
    for child, words in ((same, "another coordinator uses this journal"), (other, "inbox.coordinator")):
        child.process.wait(LONG)
        assert child.process.returncode == 2
        said = last_words(child.log)
        assert len(said) == 1
        assert words in said[0]
    assert rig.complete(one.id, deadline=LONG).completed_rounds == 2


def declare_fork(rig: FaultRig) -> None:
    """The operator's word that the log goes on from less than the sites have seen."""
    key = str(rig.layout.run / "keys" / "operator.key")
    assert konsil("coordinator", "declare-fork", "--config", config(rig), "--operator-key", key).returncode == 0


def test_a_backup_of_a_running_coordinator_restored_after_its_disk_was_lost_ends_with_the_same_bits(
    rig: FaultRig,
) -> None:
    one = rig.small("restored", rounds=ROUNDS)
    rig.gate.hold("site-b", 2)  # the coordinator is backed up in mid-round
    rig.publish(one)
    rig.wait(one.id, lambda story: story.completed_rounds >= 1, "round 1", deadline=LONG)
    shown: list[str] = []
    assert (
        archive.backup(rig.layout.coordinator, rig.layout.run / "saved", lambda what, *_: shown.append(what)).missing
        == ()
    )
    assert {"journal", "blobs", "verified"} <= set(shown)
    assert completed(rig, one.id) == 1
    rig.gate.hold("site-b", 4)
    rig.wait(one.id, lambda story: story.completed_rounds >= 3, "two rounds after the backup", deadline=LONG)
    rig.kill(COORDINATOR)
    shutil.rmtree(rig.layout.coordinator)
    saved = str(rig.layout.run / "saved")
    restored = konsil("coordinator", "restore", "--config", config(rig), saved)
    assert restored.returncode == 0
    assert "konsil coordinator declare-fork" in restored.stderr
    declare_fork(rig)
    rig.start(COORDINATOR)
    rig.gate.open("site-b")
    rig.same_bits(one.id)
    told = konsil("coordinator", "status", "--config", config(rig), "--json")
    assert told.returncode == 0
    assert json.loads(told.stdout)["problem"] is None


def test_a_broken_journal_ends_the_start_with_one_line_and_goes_on_after_a_cut(rig: FaultRig) -> None:
    one = rig.small("broken")
    rig.publish(one)
    digest = rig.complete(one.id, deadline=LONG).model_digest
    rig.kill(COORDINATOR)
    with sqlite3.connect(rig.layout.coordinator / "journal.sqlite") as db:
        (count,) = db.execute("SELECT max(number) FROM entries").fetchone()
        data = bytearray(db.execute("SELECT data FROM entries WHERE number = ?", (count - 4,)).fetchone()[0])
        data[len(data) // 2] ^= 1
        db.execute("UPDATE entries SET data = ? WHERE number = ?", (bytes(data), count - 4))
    db.close()
    log = rig.layout.log_of("broken")
    child = rig.start_with("broken", "coordinator", rig.consortium.config_of(COORDINATOR))
    child.process.wait(LONG)
    assert child.process.returncode == 1
    said = last_words(log)
    assert len(said) == 1
    assert f"Entries 1 to {count - 5} of {count} hold" in said[0]
    shown = konsil("coordinator", "status", "--config", config(rig))
    assert shown.returncode == 1
    assert f"konsil coordinator cut --after {count - 5}" in shown.stdout
    assert konsil("coordinator", "cut", "--config", config(rig), "--after", str(count - 5)).returncode == 0
    declare_fork(rig)
    rig.start(COORDINATOR)
    eventually(
        lambda: recover_states(open_readonly(rig.layout.coordinator))[one.id].ended, what="what was lost is heard again"
    )
    assert recover_states(open_readonly(rig.layout.coordinator))[one.id].outcome is not None
    assert rig.story(one.id).model_digest == digest


def test_a_stopped_coordinator_that_comes_back_after_another_took_over_is_refused_by_the_sites_and_ends_itself(
    rig: FaultRig,
) -> None:
    rig.kill(COORDINATOR)
    first = rig.start_with("first", "coordinator", twin(rig, rig.layout.coordinator))
    one = rig.small("taken-over", rounds=ROUNDS)
    rig.gate.hold("site-b", 2)
    rig.publish(one)
    rig.wait(one.id, lambda story: story.completed_rounds >= 1, "round 1", deadline=LONG)
    first.send_signal(signal.SIGSTOP)
    standby = rig.layout.run / "standby"
    archive.backup(rig.layout.coordinator, rig.layout.run / "saved-standby")
    copy = twin(rig, standby)
    archive.restore(rig.layout.run / "saved-standby", standby)
    # It waits until the broker notices that the first one's connection is half-open, and lets go of its inbox.
    rig.start_with("second", "coordinator", copy)
    rig.gate.open("site-b")
    rig.wait(one.id, lambda story: story.completed_rounds >= 2, "the second one leads", deadline=LONG)
    first.send_signal(signal.SIGCONT)
    first.process.wait(LONG)
    assert first.process.returncode == 2
    said = last_words(first.log)
    assert len(said) == 1
    assert "has spoken, and this one has term" in said[0]
    rig.same_bits(one.id)
    refused = [
        line for site in SITES for line in rig.layout.log_of(site).read_text().splitlines() if "old-term" in line
    ]
    assert refused, "the sites heard the old one and refused it"
