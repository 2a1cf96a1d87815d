"""What the agent sees of a data set before each task: names, sizes, times; and what a difference means."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import PATIENCE, eventually

from messages.ground.clock import SystemClock
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.data.guard import DataGuard, Look, judge_data, look_at
from site_agent.datasets.config import DatasetConfig


def brats(folder: Path, **more: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"source": "brats", "path": str(folder), "labels": {3: "ET"}, **more})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("case-1", "case-2"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for ending in ("t1", "seg"):
            (tmp_path / "data" / name / f"{name}-{ending}.nii.gz").write_bytes(name.encode())
    return tmp_path / "data"


def test_two_looks_at_the_same_files_are_equal(data: Path) -> None:
    assert look_at(brats(data)) == look_at(brats(data))
    assert look_at(brats(data)).files == 4


CHANGES: dict[str, Callable[[Path], object]] = {
    "an image of another size": lambda data: (data / "case-1" / "case-1-t1.nii.gz").write_bytes(b"longer than it was"),
    "an image written later": lambda data: os.utime(data / "case-1" / "case-1-t1.nii.gz", (1, 1)),
    "an image more": lambda data: (data / "case-1" / "case-1-t2.nii.gz").touch(),
    "an image less": lambda data: (data / "case-2" / "case-2-seg.nii.gz").unlink(),
    "another name": lambda data: (data / "case-2").rename(data / "case-3"),
    "a dataset.json": lambda data: (data / "dataset.json").touch(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(data: Path, change: str) -> None:
    before = look_at(brats(data))
    CHANGES[change](data)
    assert look_at(brats(data)) != before


def test_a_list_of_the_withdrawn_that_changed_is_seen(data: Path, tmp_path: Path) -> None:
    config = brats(data, withdrawn=str(tmp_path / "withdrawn"))
    (tmp_path / "withdrawn").write_text("case-1\n")
    before = look_at(config)
    (tmp_path / "withdrawn").write_text("case-1\ncase-2\n")
    assert look_at(config) != before


def test_what_is_no_image_does_not_count(data: Path) -> None:
    before = look_at(brats(data))
    (data / "notes.txt").touch()
    (data / ".DS_Store").touch()
    (data / "case-1" / "log").mkdir()
    assert look_at(brats(data)) == before


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        look_at(brats(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("joined", "now", "reason"),
    [
        ("a", Look("a", 4), None),
        (None, Look("a", 4), None),
        ("a", Look("b", 4), Reason.DATASET_CHANGED),
        ("a", Look("b", 0), Reason.DATASET_GONE),
        ("a", None, Reason.DATASET_GONE),
        (None, None, Reason.DATASET_GONE),
    ],
)
def test_a_difference_has_its_code(joined: str | None, now: Look | None, reason: Reason | None) -> None:
    assert judge_data(joined, now) is reason


def test_while_a_look_hangs_the_newest_task_waits_for_it_and_the_older_ones_are_void(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted, looks = threading.Event(), []

    def hanging(config: DatasetConfig) -> Look:
        looks.append(config)
        mounted.wait(PATIENCE)
        return look_at(config)

    monkeypatch.setattr("site_agent.data.guard.look_at", hanging)
    seen: list[str] = []
    guard = DataGuard({"glioma": brats(data)}, lambda work: work(), SystemClock())
    for name in ("round 1", "round 2", "round 3"):
        guard.look_at_data("e", "glioma", lambda _look, name=name: seen.append(name))  # type: ignore[misc]
    mounted.set()
    eventually(lambda: seen, what="an answer")
    assert (seen, len(looks)) == (["round 3"], 1)


def test_files_that_a_table_names_are_seen_however_deep_they_lie(tmp_path: Path) -> None:
    image = tmp_path / "a" / "b" / "c" / "d" / "one.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"1")
    (tmp_path / "labels.csv").write_text("image,label\na/b/c/d/one.png,benign\n")
    columns = {"label": "label"}
    config = DatasetConfig.model_validate(
        {"source": "table", "path": str(tmp_path), "channels": ["US"], "table": columns}
    )
    before = look_at(config)
    assert before.files == 2
    image.write_bytes(b"22")
    assert look_at(config) != before
