"""The whole agent and data that change or go under it."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import site_consortium as script
from agent_rig import Start, joined, through_rounds
from brokers import eventually
from gated_trainer import Gate
from patched_trainer import HALFWAY, trainer

from messages.reasons import Reason
from site_agent.data.guard import Look, look_at
from site_agent.datasets.config import DatasetConfig


def data_on_disk(folder: Path) -> tuple[dict[str, Any], Path]:
    """A data set's section of site.toml, and one of its images."""
    image = folder / "case-1" / "case-1-t1.nii.gz"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"voxels")
    return {"glioma": {"source": "brats", "path": str(folder), "labels": {3: "ET"}}}, image


def outcome(coordinator: script.ScriptedCoordinator, number: int) -> Reason | None:
    """What the site says of a round: why it fails, or None with its update."""
    coordinator.send_model(number)
    coordinator.start_round(number)
    failed = lambda: coordinator.of("round-failed", number)  # noqa: E731
    eventually(lambda: failed() or coordinator.of("weights-ready", number), what="the round's end")
    return failed()[0].body.reason if failed() else None


def test_a_data_set_that_changed_or_is_gone_between_rounds_is_told_though_the_trainer_is_warm(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, image = data_on_disk(tmp_path / "data")
    status = image.stat()
    running = start(datasets=datasets)
    through_rounds(coordinator, 1)
    pid = running.ask("status")["experiments"][0]["trainer_pid"]

    image.write_bytes(b"other voxels")
    assert outcome(coordinator, 2) is Reason.DATASET_CHANGED
    image.write_bytes(b"voxels")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert outcome(coordinator, 3) is None
    away = (tmp_path / "data").rename(tmp_path / "away")
    assert outcome(coordinator, 4) is Reason.DATASET_GONE
    (tmp_path / "data").mkdir()  # a mount point without its mount
    assert outcome(coordinator, 5) is Reason.DATASET_GONE
    (tmp_path / "data").rmdir()
    away.rename(tmp_path / "data")
    assert outcome(coordinator, 6) is None
    assert running.ask("status")["experiments"][0]["trainer_pid"] == pid


def test_a_file_more_a_file_less_and_a_lost_permission_are_told_and_when_all_is_back_the_site_trains_again(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_roots_rights(config: DatasetConfig) -> Look:
        # Root may read everything: this thread looks as nobody does (setfsuid(2) is of one thread).
        ctypes.CDLL(None).setfsuid(65534)
        return look_at(config)

    monkeypatch.setattr("site_agent.data.guard.look_at", without_roots_rights)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as outside:  # pytest's own folder is closed to others
        os.chmod(outside, 0o755)
        folder = Path(outside) / "data"
        datasets, image = data_on_disk(folder)
        os.chmod(folder, 0o755)
        os.chmod(image.parent, 0o755)
        start(datasets=datasets)
        through_rounds(coordinator, 1)

        added = image.parent / "case-1-seg.nii.gz"
        added.touch()
        assert outcome(coordinator, 2) is Reason.DATASET_CHANGED
        added.unlink()
        assert outcome(coordinator, 3) is None
        away = image.rename(Path(outside) / "away")
        assert outcome(coordinator, 4) is Reason.DATASET_GONE  # it was the only one
        away.rename(image)
        assert outcome(coordinator, 5) is None
        os.chmod(folder, 0o000)
        assert outcome(coordinator, 6) is Reason.DATASET_GONE
        os.chmod(folder, 0o755)
        assert outcome(coordinator, 7) is None
        os.chmod(image.parent, 0o000)
        assert outcome(coordinator, 8) is Reason.DATASET_CHANGED  # one of its folders
        os.chmod(image.parent, 0o755)
        assert outcome(coordinator, 9) is None


def test_an_experiment_whose_data_set_is_gone_is_declined(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, _ = data_on_disk(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "away")
    start(datasets=datasets)
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.DATASET_GONE


def test_the_status_says_of_each_list_of_the_withdrawn_what_became_of_its_entries(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, _ = data_on_disk(tmp_path / "data")
    listed = tmp_path / "withdrawn.txt"
    listed.write_bytes(b"\xef\xbb\xbfcase-1\r\ncase-7\r\n")
    datasets["glioma"]["withdrawn"] = str(listed)
    running = start(datasets=datasets)
    standing = eventually(lambda: running.ask("status")["lists"], what="the lists")
    assert standing == [
        {
            "dataset": "glioma",
            "said": "1 of 2 entries in the list of the withdrawn matched, 1 nobody's here (line 2)",
            "usable": True,
            "nobody": 1,
        }
    ]
    listed.write_text("CASE-1\n")
    coordinator.accept()  # before each task the list is read again
    eventually(lambda: not running.ask("status")["lists"][0]["usable"], what="the list that is in doubt")
    assert "in doubt in line 1" in running.ask("status")["lists"][0]["said"]


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


def with_list(folder: Path) -> tuple[dict[str, Any], Path]:
    """As `data_on_disk`, and a list of the withdrawn."""
    datasets, _ = data_on_disk(folder)
    listed = folder.with_name("withdrawn.txt")
    listed.write_text("case-7\n")
    datasets["glioma"]["withdrawn"] = str(listed)
    return datasets, listed


def test_an_update_trained_on_somebody_who_withdrew_meanwhile_does_not_leave(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate, tmp_path: Path
) -> None:
    datasets, listed = with_list(tmp_path / "data")
    running = start(datasets=datasets, training={"command": gate.trainer})
    joined(coordinator)
    with gate.held("site-a"):
        coordinator.send_model(1)
        coordinator.start_round(1)
        eventually(lambda: running.ask("status")["state"] == "training", what="training")
        listed.write_text("case-1\n")
    failed = eventually(lambda: coordinator.of("round-failed", 1), what="round-failed")[0]
    assert failed.body.reason is Reason.DATASET_CHANGED
    assert not coordinator.chunks
    assert not coordinator.of("weights-ready")
    assert running.agent._sender.bytes_up == 0


def test_an_update_of_which_a_part_has_left_stays_without_its_seal_where_somebody_withdraws(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, listed = with_list(tmp_path / "data")
    start(datasets=datasets, training=trainer(tmp_path, HALFWAY))
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    eventually(lambda: {index for chunks in coordinator.chunks.values() for index in chunks}, what="the first chunks")
    listed.write_text("case-1\n")
    (tmp_path / "go").touch()
    failed = eventually(lambda: coordinator.of("round-failed", 1), what="round-failed")[0]
    assert failed.body.reason is Reason.DATASET_CHANGED
    assert not coordinator.of("weights-ready")
    listed.write_text("case-7\n")
    assert outcome(coordinator, 2) is Reason.DATASET_CHANGED  # the file is another one than was read at joining


def test_a_list_that_cannot_be_read_any_more_lets_no_update_leave_until_it_can(
    start: Start, coordinator: script.ScriptedCoordinator, gate: Gate, tmp_path: Path
) -> None:
    datasets, _ = with_list(tmp_path / "data")
    running = start(datasets=datasets, training={"command": gate.trainer})
    joined(coordinator)
    with gate.held("site-a"):
        coordinator.send_model(1)
        coordinator.start_round(1)
        eventually(lambda: running.ask("status")["state"] == "training", what="training")
        away = (tmp_path / "data").rename(tmp_path / "away")
    failed = eventually(lambda: coordinator.of("round-failed", 1), what="round-failed")[0]
    assert failed.body.reason is Reason.DATASET_GONE
    assert not coordinator.chunks
    away.rename(tmp_path / "data")
    assert outcome(coordinator, 2) is None


SCORES_WAIT = """
from site_agent.training.protocol import Evaluated
def say(self, reply, plain=null.NullTrainer._send_reply):
    if isinstance(reply, Evaluated):
        (HERE / "scored").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
    plain(self, reply)
"""
"""What was scored is told once the test says so."""


def test_scores_on_cases_of_somebody_who_withdrew_meanwhile_do_not_leave(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    datasets, listed = with_list(tmp_path / "data")
    start(datasets=datasets, training=trainer(tmp_path, SCORES_WAIT))
    joined(coordinator)
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    coordinator.send_model(2)
    eventually((tmp_path / "scored").exists, what="the scores")
    listed.write_text("case-1\n")
    (tmp_path / "go").touch()
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason is Reason.DATASET_CHANGED
    assert not coordinator.of("evaluated")
