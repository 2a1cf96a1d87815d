"""Preparing leaves to rounds the room that they need, under limits.disk and on the disk, and says so once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import SECRET, settings, write
from dicom_training_rig import request
from structlog.testing import capture_logs

from messages.reasons import Reason
from site_agent.dicom.base import Accounting
from site_agent.dicom.door.door import Door
from site_agent.dicom.prepared import pins, store
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.preparing import build, space
from site_agent.disk import room
from site_agent.disk.room import Room, StateDiskFull

MIB = 2**20


def used_bytes(state: Path) -> int:
    """Bytes of objects and cases; at the size of these, SQLite's own files would be most of it."""
    files = (path for path in state.rglob("*") if path.suffix in (".dcm", ".gz"))
    return sum(path.lstat().st_blocks * 512 for path in files if "sets" not in path.parts)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure each time, and as above."""
    monkeypatch.setattr(room, "REMEASURED_SECONDS", 0.0)
    monkeypatch.setattr(room, "used_bytes", used_bytes)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients; read only."""
    folder = tmp_path_factory.mktemp("export")
    write(folder, range(3))
    return folder


class Watched:
    """A preparation with a limit; the most that lay under the state directory at any time."""

    def __init__(self, state: Path, export: Path) -> None:
        self.state, self.export, self.most = state, export, 0

    def prepare(self, limit: int | None = None, **more: Any) -> Accounting:
        self.most = 0
        found: list[Accounting] = []
        config = settings(self.export, refresh="0s", **more)
        build.prepare_dataset("g", config, self.state, SECRET, self._look, limit=limit, processes=1, done=found.append)
        self._look(0, 0)
        return found[0]

    def _look(self, _done: int, _total: int) -> None:
        self.most = max(self.most, used_bytes(self.state))


@pytest.fixture(scope="module")
def sizes(export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, int]:
    """What has to be free before a study is fetched, once one was, and the bytes of a case."""
    watched = Watched(tmp_path_factory.mktemp("whole"), export)
    watched.prepare()
    index = Index(store.folder_of(watched.state, "g") / "index.sqlite")
    needed = int(index.noted_value("largest")) * (1 + space.GROWTH)
    index.close()
    assert needed > watched.most
    return needed, store.Store(store.folder_of(watched.state, "g")).cases_size() // 3


def limited(allowed: int) -> int:
    """The limit of which so much is left, a tenth being for rounds."""
    return allowed * 10 // 9 + 10


@pytest.mark.parametrize("cases", [1, 2])
def test_cases_for_which_there_is_no_room_under_limits_disk_are_left_out_and_it_is_never_exceeded(
    cases: int, export: Path, sizes: tuple[int, int], tmp_path: Path
) -> None:
    watched = Watched(tmp_path, export)
    needed, case = sizes
    limit = limited(needed + (cases - 1) * case + case // 2)
    with capture_logs() as logged:
        found = watched.prepare(limit)
    assert (found.used, found.left_out) == (cases, Counter({Reason.DISK_FULL: 3 - cases}))
    assert 0 < watched.most <= limit * 9 // 10
    (said,) = [one for one in logged if one["log_level"] == "warning"]
    assert "limits.disk" in said["event"]
    assert said["left_out"] == 3 - cases
    assert not [*(tmp_path / "datasets" / "g" / "spool").rglob("*.dcm")]
    assert watched.prepare(10 * limit).used == 3  # there is room again


def test_without_room_for_the_first_study_nothing_of_any_stays_on_disk(export: Path, tmp_path: Path) -> None:
    watched = Watched(tmp_path, export)
    found = watched.prepare(MIB // 8)
    assert (found.used, found.left_out) == (0, Counter({Reason.DISK_FULL: 3}))
    assert 0 < watched.most <= MIB // 8 * 9 // 10
    assert used_bytes(tmp_path) == 0


def test_a_study_that_cannot_fit_is_not_even_fetched(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, export)
    first = watched.prepare()
    pins.write_pin(tmp_path / "cache" / "e-1", pins.Pin("g", first, ""))
    write(tmp_path / "more", [7])
    watched.export = tmp_path / "more"
    came: list[str] = []
    real = Door.admit_object

    def noted(door: Door, obj: Any) -> Any:
        came.append("object")
        return real(door, obj)

    monkeypatch.setattr(Door, "admit_object", noted)
    found = watched.prepare(limited(used_bytes(tmp_path)))
    assert (found.used, found.left_out, came) == (0, Counter({Reason.DISK_FULL: 1}), [])
    assert watched.prepare().used == 1
    assert came


@pytest.mark.parametrize("joined", [False, True])
def test_cases_that_nothing_uses_make_room_and_those_of_an_experiment_stay(
    joined: bool, export: Path, sizes: tuple[int, int], tmp_path: Path
) -> None:
    state, watched = tmp_path / "state", Watched(tmp_path / "state", export)
    first = watched.prepare()
    if joined:
        pins.write_pin(state / "cache" / "e-1", pins.Pin("g", first, ""))
    write(tmp_path / "new", range(4, 6))
    watched.export = tmp_path / "new"
    needed, case = sizes
    found = watched.prepare(limited(needed + case + case // 2))
    assert found.used == (0 if joined else 2)
    assert store.count_whole_cases(store.set_folder(state, "g", first.fingerprint)) == (3 if joined else None)


def test_on_a_disk_that_is_nearly_full_some_is_left_to_rounds(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = room.shutil.disk_usage(tmp_path)

    def nearly_full(_path: Path) -> Any:
        return real._replace(total=100 * 2**30, free=room.KEPT_FREE + MIB // 8 - used_bytes(tmp_path))

    monkeypatch.setattr(room.shutil, "disk_usage", nearly_full)
    assert Watched(tmp_path, export).prepare().left_out == {Reason.DISK_FULL: 3}


def test_what_preparing_may_write_is_what_the_limit_leaves_but_for_a_tenth(tmp_path: Path) -> None:
    left = Room(tmp_path, 10 * MIB)
    assert left.bytes_lacking(9 * MIB) == 0
    assert left.bytes_lacking(10 * MIB) == MIB
    left.require_room(4 * MIB, "cases")
    (tmp_path / "written.gz").write_bytes(bytes(4 * MIB))
    assert left.bytes_lacking(5 * MIB) == 0
    with pytest.raises(StateDiskFull, match=r"no room is left for cases.*limits\.disk") as refused:
        left.require_room(6 * MIB, "cases")
    assert refused.value.reason is Reason.DISK_FULL
    (tmp_path / "written.gz").unlink()
    assert left.bytes_lacking(9 * MIB) == 0


def test_what_was_told_counts_until_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REMEASURED_SECONDS", 1e9)
    left = Room(tmp_path, 10 * MIB)
    assert left.bytes_lacking(0) == 0
    (tmp_path / "written.gz").write_bytes(bytes(6 * MIB))
    assert left.bytes_lacking(9 * MIB) == 0  # not looked at again yet
    left.note_written(6 * MIB)
    assert left.bytes_lacking(4 * MIB) == MIB


@pytest.mark.torch
def test_a_trainer_without_room_for_its_own_cache_says_that_the_disk_is_full(tmp_path: Path) -> None:
    from site_agent.training.failures import code_of
    from site_agent.training.session import TrainingSession

    write(tmp_path / "export", range(4))
    asked, state = request(tmp_path), tmp_path / "state"
    config = settings(tmp_path / "export", refresh="0s")
    build.prepare_dataset("glioma", config, state, SECRET, lambda *_: None, processes=1)
    full = asked.model_copy(update={"disk_bytes": limited(used_bytes(state) + 20_000)})
    with pytest.raises(StateDiskFull, match="no room is left for preprocessed cases") as refused:
        TrainingSession(full, lambda _reply: None)
    assert code_of(refused.value) is Reason.DISK_FULL
