"""A prepared data set over time: what is not done twice, what changed, was withdrawn, or makes room."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import SECRET, Phantom, contents, counted, prepared, quiet, series_of, settings, write

from deploy.demo.phantoms import dicom
from messages.reasons import Reason
from site_agent.data.guard import judge_data, look_at_prepared
from site_agent.dicom.prepared import pins, store
from site_agent.dicom.preparing import build


def test_what_is_prepared_is_not_asked_for_again_until_the_last_look_is_old(
    export: tuple[Path, list[Phantom]], tmp_path: Path, asked: Counter[str]
) -> None:
    first = prepared(tmp_path, settings(export[0]))
    before, files = asked.copy(), contents(first)
    assert prepared(tmp_path, settings(export[0])).path == first.path
    assert asked == before
    assert prepared(tmp_path, settings(export[0], refresh="0s")).path == first.path
    assert asked == before + Counter(find=1)
    assert contents(first) == files


def test_a_new_study_alone_is_fetched_and_makes_a_new_state_beside_the_old_one(
    tmp_path: Path, asked: Counter[str]
) -> None:
    write(tmp_path / "export", range(2))
    old = prepared(tmp_path, settings(tmp_path / "export"))
    before, seen = contents(old), asked["series"]
    write(tmp_path / "export", [2])
    new = prepared(tmp_path, settings(tmp_path / "export"), again=True)
    assert asked["series"] - seen == 6  # four modalities, localizer, segmentation
    assert new.path != old.path
    assert len(contents(new)) == 3
    assert contents(old) == before


def test_a_study_that_was_left_out_is_looked_at_again_when_it_changed(tmp_path: Path) -> None:
    write(tmp_path / "export", [0], keep=lambda obj: obj.Modality != "SEG")
    config = settings(tmp_path / "export", refresh="0s")
    prepared(tmp_path, config)
    assert counted(tmp_path).left_out == {Reason.NO_LABEL: 1}
    for file in (tmp_path / "export" / "export 0 0").iterdir():
        file.unlink()
    (tmp_path / "export" / "export 0 0").rmdir()
    write(tmp_path / "export", [0])
    prepared(tmp_path, config)
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {})


def test_a_slice_that_was_added_later_is_noticed_in_a_folder_that_announces_nothing(tmp_path: Path) -> None:
    lost: list[Any] = []

    def without(obj: Any) -> bool:
        missing = series_of(obj) == "t1_se_tra" and obj.InstanceNumber == 5
        lost.extend([obj] if missing else [])
        return not missing

    write(tmp_path / "export", [0], keep=without)
    config = settings(tmp_path / "export", refresh="0s")
    prepared(tmp_path, config)
    assert counted(tmp_path).left_out == {Reason.MISSING_SLICES: 1}
    (tmp_path / "export" / "found").write_bytes(dicom.encode_dataset(lost[0]))
    prepared(tmp_path, config)
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {})


def test_a_withdrawn_patient_is_not_fetched_and_what_was_prepared_is_removed(
    tmp_path: Path, asked: Counter[str]
) -> None:
    write(tmp_path / "export", range(2))
    (tmp_path / "withdrawn").write_text("KH-0007\n")
    config = settings(tmp_path / "export", withdrawn=str(tmp_path / "withdrawn"))
    prepared(tmp_path, config)
    seen = asked["series"]
    (tmp_path / "withdrawn").write_text("KH-0001  # asked us to\n")
    dataset = prepared(tmp_path, config)
    assert asked["series"] == seen
    assert counted(tmp_path).left_out == {Reason.WITHDRAWN: 1}
    assert len(contents(dataset)) == 1
    assert len([*(tmp_path / "datasets" / "glioma" / "cases").iterdir()]) == 1


def test_the_disk_bound_leaves_cases_out_and_never_what_an_experiment_trains_on(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    prepared(tmp_path, settings(tmp_path / "export"))
    taken = store.Store(store.folder_of(tmp_path, "glioma")).cases_size()
    pins.write_pin(tmp_path / "cache" / "e-1", pins.Pin("glioma", counted(tmp_path), ""))
    pinned = counted(tmp_path)
    write(tmp_path / "export", [2])
    prepared(tmp_path, settings(tmp_path / "export", disk=taken + 4096, refresh="0s"))
    assert counted(tmp_path).left_out == {Reason.DISK_FULL: 1}
    assert store.count_whole_cases(store.set_folder(tmp_path, "glioma", pinned.fingerprint)) == 2


def test_what_nothing_uses_makes_room_for_what_is_new(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    taken = store.Store(store.folder_of(tmp_path, "glioma")).cases_size()
    for file in (tmp_path / "export" / "export 0 0").iterdir():
        file.unlink()
    write(tmp_path / "export", [1])
    bound = settings(tmp_path / "export", disk=taken * 3 // 2, refresh="0s")
    prepared(tmp_path, bound)
    prepared(tmp_path, bound)
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {})
    assert store.Store(store.folder_of(tmp_path, "glioma")).cases_size() <= taken * 3 // 2


def test_an_experiment_keeps_the_state_that_it_was_joined_with(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    config, cache = settings(tmp_path / "export", refresh="0s"), tmp_path / "cache" / "e-1"
    ours, first = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    joined = look_at_prepared(config, "glioma", tmp_path, cache)
    write(tmp_path / "export", [1])
    prepared(tmp_path, config)
    prepared(tmp_path, config)
    again, same = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    assert (again.path, same) == (ours.path, first)
    assert len(contents(ours)) == 1
    assert judge_data(joined.digest, look_at_prepared(config, "glioma", tmp_path, cache)) is None
    other, _ = build.for_experiment("glioma", config, tmp_path, SECRET, tmp_path / "cache" / "e-2", quiet)
    assert len(contents(other)) == 2


@pytest.mark.parametrize("change", ["a case is gone", "the state is gone", "the list of the withdrawn changed"])
def test_a_prepared_set_that_is_not_what_was_joined_with_is_seen(change: str, tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    (tmp_path / "withdrawn").write_text("")
    config = settings(tmp_path / "export", withdrawn=str(tmp_path / "withdrawn"))
    cache = tmp_path / "cache" / "e-1"
    assert judge_data(None, look_at_prepared(config, "glioma", tmp_path, cache)) is None  # before it is prepared
    _, first = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    assert judge_data(first.fingerprint, look_at_prepared(config, "glioma", tmp_path, cache)) is None
    lying = store.Store(store.folder_of(tmp_path, "glioma"))
    if change == "a case is gone":
        lying.make_room((), 0, 0.0)
    elif change == "the state is gone":
        lying.drop_sets(())
    else:
        (tmp_path / "withdrawn").write_text("KH-0009\n")
    seen = look_at_prepared(config, "glioma", tmp_path, cache)
    assert judge_data(first.fingerprint, seen) is Reason.DATASET_CHANGED
