"""The whole agent under its operator's policy, hours and orders."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import site_consortium as script
from agent_rig import Start, joined, training
from brokers import PATIENCE, eventually
from gated_trainer import Gate
from structlog.testing import capture_logs

from deploy.site.orders import standing_words
from messages.ground.errors import RequestError
from messages.kinds import ExperimentChecked
from messages.reasons import Reason
from site_agent.disk.ledger import read_orders


def test_a_codec_that_the_policy_does_not_name_is_declined(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start(policy={"approval": "auto", "allow": [{"codecs": ["float32"]}]})
    coordinator.accept(script.experiment_file(wire={"codec": "bfloat16"}))
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.CODEC_NOT_ALLOWED


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


def test_a_check_is_answered_without_joining(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    start()
    body = ExperimentChecked(experiment=script.experiment_file(), researcher="dr-x", nonce="0" * 32)
    eventually(lambda: coordinator.of("hello"), what="hello")
    coordinator.say("experiment-checked", body, experiment="exp-1")
    answer = eventually(lambda: [e for e in coordinator.live if e.kind == "check-answer"], what="an answer")[0]
    assert (answer.body.accepts, answer.body.reason) == (False, Reason.RESEARCHER_NOT_ALLOWED)
    assert not coordinator.of("declined")


def test_a_check_is_told_that_the_site_would_take_part_once_its_operator_has_approved(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    write_image(start(policy={"approval": "hand", "allow": [{}]}).config.site.state)
    assert checked(coordinator) == (True, Reason.AWAITS_APPROVAL)


def write_image(folder: Path, name: str = "t1", edge: int = 24, *, unit: str = "mm", size: float = 1.0) -> None:
    """An image of so many voxels an edge, each so large in its file's unit."""
    case = folder / "BraTS-GLI-00001-000"
    case.mkdir(exist_ok=True)
    image = nib.Nifti1Image(np.zeros((edge, edge, edge), np.int16), np.diag((size, size, size, 1.0)))
    image.header.set_xyzt_units(unit)
    nib.save(image, case / f"{case.name}-{name}.nii.gz")


def checked(coordinator: script.ScriptedCoordinator, **changes: Any) -> tuple[bool, Reason | None]:
    """What the site answers to a check of an experiment with such sections."""
    eventually(lambda: coordinator.of("hello"), what="hello")
    before = len([e for e in coordinator.live if e.kind == "check-answer"])
    body = ExperimentChecked(experiment=script.experiment_file(**changes), researcher="dr-a", nonce="0" * 32)
    coordinator.say("experiment-checked", body, experiment="exp-1", nonce=before + 1)
    eventually(lambda: len([e for e in coordinator.live if e.kind == "check-answer"]) > before, what="an answer")
    answer = [e for e in coordinator.live if e.kind == "check-answer"][-1].body
    return answer.accepts, answer.reason


TASK = {"kind": "segmentation", "regions": {"WT": ["ET"]}}


def test_a_check_is_told_what_the_experiment_would_meet(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start()
    assert checked(coordinator) == (False, Reason.DATASET_GONE)  # there is no image in the folder
    write_image(running.config.site.state)
    assert checked(coordinator, training={"patch": [16, 16, 16]}) == (True, None)
    assert checked(coordinator, task=TASK | {"channels": ["T1", "FLAIR"]}) == (False, Reason.MISSING_CHANNEL)
    assert checked(coordinator, training={"patch": [32, 32, 32]}) == (True, Reason.PATCH_TOO_LARGE)
    amp = {"patch": [16, 16, 16], "precision": "amp"}
    assert checked(coordinator, training=amp) == (True, Reason.AMP_WITHOUT_GPU)
    running.ask("pause")
    assert checked(coordinator) == (False, Reason.SITE_PAUSED)


def test_a_check_foresees_channels_that_a_data_set_from_dicom_does_not_have(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    labels = {"source": "seg", "concepts": {"ET": {"codes": ["NCIt:C113842"]}}}
    start(datasets={"glioma": {"source": "dicom", "path": str(tmp_path), "channels": ["T1", "T2"], "labels": labels}})
    assert checked(coordinator, task=TASK | {"channels": ["T2"]}) == (True, None)
    assert checked(coordinator, task=TASK | {"channels": ["T1", "FLAIR"]}) == (False, Reason.MISSING_CHANNEL)


def test_approval_by_hand_waits_for_the_operator(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start(policy={"approval": "hand", "allow": [{}]})
    coordinator.accept()
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.AWAITS_APPROVAL
    waiting = running.ask("status")["experiments"][0]
    assert standing_words(waiting) == "awaits your approval (konsil site requests)"
    with pytest.raises(RequestError, match="awaits approval"):
        running.ask("approve", experiment="exp-2")
    with capture_logs() as logged:
        running.ask("approve", experiment="exp-1")
    assert {"what": "approve", "experiment": "exp-1"}.items() <= next(
        one.items() for one in logged if one["event"] == "ordered"
    )
    assert eventually(lambda: coordinator.of("joined"), what="joined")


def test_what_awaits_approval_is_declined_by_hand_and_who_did_it_is_kept(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start(policy={"approval": "hand", "allow": [{}]})
    coordinator.accept()
    eventually(lambda: coordinator.of("declined"), what="declined")
    with capture_logs() as logged:
        running.ask("decline", experiment="exp-1", by="it")
    assert {"what": "decline", "experiment": "exp-1", "by": "it"}.items() <= next(
        one.items() for one in logged if one["event"] == "ordered"
    )
    said = eventually(lambda: coordinator.of("declined")[1:], what="declined by hand")[0]
    assert said.body.reason is Reason.NOT_ALLOWED
    kept = read_orders(running.config.site.state)
    assert [(one.what, one.experiment, one.login) for one in kept] == [("decline", "exp-1", "it")]


def test_an_experiment_that_is_over_is_shown_as_ended_and_nothing_more() -> None:
    over = {"experiment": "exp-1", "phase": "ended", "round": 4}
    assert standing_words(over) == "ended"
    assert standing_words(over | {"phase": "training"}) == "training, round 4"
    assert standing_words(over | {"phase": "preparing", "round": 0}) == "preparing"


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
    status = running.ask("status")
    assert (status["state"], status["within_hours"]) == ("idle", False)
    coordinator.accept()
    eventually(lambda: running.ask("status")["queue"] == ["exp-1"], what="the experiment to wait")
    assert not coordinator.of("joined")
    status = running.ask("status")
    assert status["state"] == "outside-hours"
    assert status["opens_at"] == f"{now + timedelta(hours=3):%Y-%m-%dT%H:%M}"
    told = eventually(
        lambda: [one for one in coordinator.live if one.kind == "alive" and one.body.state == "outside-hours"],
        what="the coordinator to be told",
    )
    assert 10_000 < told[0].body.opens_in <= 3 * 3600


def test_a_site_declines_what_its_hours_are_too_late_for_and_joins_it_once_it_may(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    now = datetime.now()
    shut = start(limits={"hours": f"{now + timedelta(hours=3):%H:%M}-{now + timedelta(hours=4):%H:%M}"})
    coordinator.accept(enrol_within=3600.0)
    declined = eventually(lambda: coordinator.of("declined"), what="declined")[0]
    assert declined.body.reason is Reason.OUTSIDE_HOURS
    assert shut.ask("status")["state"] == "outside-hours"
    shut.stop()
    start()
    assert eventually(lambda: coordinator.of("joined"), what="joined")


def test_a_drained_site_finishes_and_goes(start: Start, coordinator: script.ScriptedCoordinator, gate: Gate) -> None:
    running = start(training={"command": gate.trainer})
    gate.hold("site-a")
    training(coordinator, running)
    running.ask("drain")
    gate.open("site-a")
    running.thread.join(PATIENCE)
    assert running.result == [0]
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    assert eventually(lambda: coordinator.of("leaving"), what="its leaving")


def test_after_resume_nothing_says_any_more_that_the_site_is_paused(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start()
    joined(coordinator)
    running.ask("pause")
    coordinator.start_round(1)
    eventually(lambda: coordinator.of("round-failed"), what="round-failed")
    paused = running.ask("status")["experiments"][0]
    assert paused["reason"] == "site-paused"
    resumed = running.ask("resume")["experiments"][0]
    assert (resumed["reason"], resumed["advice"]) == (None, None)


def test_a_check_sees_images_as_they_will_be_trained_on_whatever_unit_their_files_have(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    running = start()
    write_image(running.config.site.state, unit="micron", size=2000.0)
    finer, coarser = {"spacing_mm": [1.0, 1.0, 1.0]}, {"spacing_mm": [4.0, 4.0, 4.0]}
    patch = {"patch": [16, 16, 16]}
    assert checked(coordinator, training=patch, preprocessing=finer) == (True, None)
    assert checked(coordinator, training=patch, preprocessing=coarser) == (True, Reason.PATCH_TOO_LARGE)
