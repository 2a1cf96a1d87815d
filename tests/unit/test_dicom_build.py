"""From a folder of DICOM studies to a prepared data set: what comes out, what is left out, what is not done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from brokers import eventually
from dicom_rig import CHANNELS, SECRET, SHAPE, Phantom, contents, series_of, settings, write

from deploy.demo import dicom
from messages import crash
from messages.errors import DataError, PacsRefused, WorkFailed
from messages.reasons import Reason
from site_agent.data_guard import judged, look_at_prepared
from site_agent.datasets import source
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom import build, fingerprint, pins, preparation, store
from site_agent.dicom.base import Accounting, Fetched, Has, Looked, SeriesFound, StudyFound, Take
from site_agent.dicom.config import DicomDataset, FolderSource
from site_agent.dicom.pool import Makers
from site_agent.dicom.sources import open_source

OBJECTS = 4 * SHAPE[2] + 3 + 1
"""Of a study: slices of four series, a localizer, a segmentation."""
CONCEPTS = ("ED", "ET", "NCR")


def quiet(_done: int, _total: int) -> None:
    """Nobody watches."""


def prepared(state: Path, config: FolderSource, **more: Any) -> DatasetConfig:
    return build.materialise("glioma", config, state, SECRET, quiet, processes=1, **more)


def counted(state: Path) -> Accounting:
    found = build.accounting(state, "glioma")
    assert found is not None
    return found


class Watched:
    """The real source, and what was asked of it."""

    def __init__(self, config: DicomDataset, state: Path, asked: Counter[str]) -> None:
        self._real, self._asked = open_source(config, state), asked

    @property
    def looked(self) -> Looked:
        return self._real.looked

    def find(self) -> Sequence[StudyFound]:
        self._asked["find"] += 1
        return self._real.find()

    def fetch(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        self._asked["series"] += 1

        def taken(obj: Any) -> None:
            self._asked["objects"] += 1
            take(obj)

        return self._real.fetch(series, has, taken)

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is asked of the source from now on."""
    count: Counter[str] = Counter()
    monkeypatch.setattr(preparation, "open_source", lambda config, state: Watched(config, state, count))
    return count


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Phantom]]:
    """Three patients, whole; read only."""
    folder = tmp_path_factory.mktemp("export")
    return folder, write(folder, range(3))


@pytest.fixture(scope="module")
def calm(export: tuple[Path, list[Phantom]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with these three patients prepared; read only."""
    state = tmp_path_factory.mktemp("calm")
    prepared(state, settings(export[0]))
    return state


def test_a_folder_of_studies_becomes_cases_that_differ_from_the_phantoms_by_half_a_rescale_slope(
    export: tuple[Path, list[Phantom]], calm: Path
) -> None:
    dataset = build.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    found = source.survey(dataset, CHANNELS, CONCEPTS)
    assert (found.found, len(found.cases), found.left_out) == (3, 3, {})
    loaded = [source.load(case, dataset) for case in found.cases]
    for phantom in export[1]:
        wanted = np.stack([phantom.images[name] for name in CHANNELS]).astype(np.float32)
        slopes = [max(1.0, phantom.images[name].max() / 4095) * 1.001 for name in CHANNELS]
        nearest = min(loaded, key=lambda one: float(np.abs(ras(one)[0] - wanted).mean()))
        image, label = ras(nearest)
        for channel, slope in enumerate(slopes):
            assert np.abs(image[channel] - wanted[channel]).max() <= slope / 2
        names = [None, "NCR", "ED", "ET"]
        for value, concept in enumerate(names):
            if concept is not None:
                assert np.array_equal(label == nearest.concepts.index(concept) + 1, phantom.label == value)


def ras(case: source.LoadedCase) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Image and label with their axes to the right, front and top."""
    turn = nib.orientations.io_orientation(case.affine)
    image = np.stack([nib.orientations.apply_orientation(volume, turn) for volume in case.image])
    return image, nib.orientations.apply_orientation(case.label, turn)


def test_the_manifest_holds_counts_and_a_fingerprint_and_nothing_else(calm: Path) -> None:
    manifest = json.loads((calm / "datasets" / "glioma" / "manifest.json").read_text())
    assert manifest.keys() == {
        "schema", "found", "used", "left_out", "series_left_out", "extent_unverified", "fingerprint",
    }  # fmt: skip
    assert (manifest["found"], manifest["used"], manifest["left_out"]) == (3, 3, {})
    assert manifest["series_left_out"] == {"localizer": 3}


def test_the_fingerprint_is_of_the_content_and_keyed_with_the_sites_secret(
    export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path
) -> None:
    prints = [counted(calm).fingerprint]
    for name, secret in (("same", SECRET), ("other", SECRET[::-1])):
        build.materialise("glioma", settings(export[0]), tmp_path / name, secret, quiet, processes=1)
        prints.append(counted(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint.of_set(SECRET, ["a", "b"]) == fingerprint.of_set(SECRET, ["b", "a"])
    assert fingerprint.of_set(SECRET, ["a", "b"]) != fingerprint.of_set(SECRET[::-1], ["a", "b"])
    assert fingerprint.of_set(SECRET, ["a", "b"]) != fingerprint.of_set(SECRET, ["a"])


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


IRREGULAR: dict[str, tuple[Callable[[Any], bool], Reason]] = {
    "no segmentation": (lambda obj: obj.Modality != "SEG", Reason.NO_LABEL),
    "no T2 series": (lambda obj: "t2_tse" not in series_of(obj), Reason.MISSING_CHANNEL),
    "a slice missing inside T1": (
        lambda obj: not (series_of(obj) == "t1_se_tra" and obj.InstanceNumber == 5),
        Reason.MISSING_SLICES,
    ),
    "a slice missing at the end of FLAIR": (
        lambda obj: not ("fluid" in series_of(obj) and obj.InstanceNumber == SHAPE[2]),
        Reason.INCOMPLETE_SERIES,
    ),
    "slices of which the segmentation speaks missing": (
        lambda obj: obj.Modality == "SEG" or "KM" not in series_of(obj),
        Reason.MISSING_CHANNEL,
    ),
}


@pytest.mark.parametrize("what", IRREGULAR)
def test_a_study_that_gives_no_case_is_counted_under_its_reason(what: str, tmp_path: Path) -> None:
    keep, reason = IRREGULAR[what]
    write(tmp_path / "export", [0])
    write(tmp_path / "export", [1], keep=keep)
    dataset = prepared(tmp_path, settings(tmp_path / "export"))
    found = counted(tmp_path)
    assert (found.found, found.used, found.left_out) == (2, 1, Counter({reason: 1}))
    assert len(contents(dataset)) == 1
    assert not [*(tmp_path / "datasets" / "glioma" / "spool").glob("*/*/*")]


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
    (tmp_path / "export" / "found").write_bytes(dicom.encoded(lost[0]))
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


def test_two_visits_of_a_patient_are_two_cases_of_one_patient(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    write(tmp_path / "export", [0], visit=1)
    dataset = prepared(tmp_path, settings(tmp_path / "export"))
    cases = source.survey(dataset, CHANNELS, CONCEPTS).cases
    assert len({case.key for case in cases}) == 2
    assert len({case.patient for case in cases}) == 1


def test_nothing_that_names_a_patient_lies_under_the_state_directory(tmp_path: Path, caplog: Any) -> None:
    export, state = tmp_path / "export", tmp_path / "state"
    written = write(export, range(2))
    write(export, [2], keep=lambda obj: obj.Modality != "SEG")
    prepared(state, settings(export))
    planted = {one.examined.uid for one in written} | {"KH-0000", "KH-0001", "KH-0002", "Hausarzt", "Radiologe"}
    planted |= {part for one in written for part in one.examined.patient_name.split("^")}
    planted |= {f"{one.examined.born:%Y%m%d}" for one in written}
    for path in state.rglob("*"):
        assert not [word for word in planted if word in str(path.relative_to(state))]
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert not [word for word in planted if word.encode() in content], path
    assert not [word for word in planted if word in caplog.text]


def test_encrypted_cases_hold_no_voxel_in_the_open_and_read_as_the_same_cases(
    export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path
) -> None:
    plain = build.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    sealed = prepared(tmp_path / "sealed", settings(export[0], encrypt=True))
    names = [name for case in contents(sealed).values() for name in case]
    assert {name.rpartition(".")[2] for name in names} == {"enc"}
    assert source.survey(sealed, CHANNELS, CONCEPTS).left_out == {Reason.UNREADABLE: 3}
    vault = Vault(SECRET, CASES)
    ours = source.survey(sealed, CHANNELS, CONCEPTS, vault=vault).cases
    theirs = source.survey(plain, CHANNELS, CONCEPTS).cases
    assert [case.key for case in ours] == [case.key for case in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(source.load(mine, sealed, vault).image, source.load(other, plain).image)


def test_cases_that_are_to_be_encrypted_from_now_on_do_not_stay_in_the_open(
    tmp_path: Path,
) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    prepared(tmp_path, settings(tmp_path / "export", encrypt=True))
    prepared(tmp_path, settings(tmp_path / "export", encrypt=True), again=True)
    lying = [path for path in (tmp_path / "datasets").rglob("*.nii*") if not path.is_symlink()]
    assert {path.suffix for path in lying} == {".enc"}


def test_the_disk_bound_leaves_cases_out_and_never_what_an_experiment_trains_on(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    prepared(tmp_path, settings(tmp_path / "export"))
    taken = store.Store(store.folder_of(tmp_path, "glioma")).size()
    pins.write(tmp_path / "cache" / "e-1", pins.Pin("glioma", counted(tmp_path), ""))
    pinned = counted(tmp_path)
    write(tmp_path / "export", [2])
    prepared(tmp_path, settings(tmp_path / "export", disk=taken + 4096, refresh="0s"))
    assert counted(tmp_path).left_out == {Reason.DISK_FULL: 1}
    assert store.whole(store.set_folder(tmp_path, "glioma", pinned.fingerprint)) == 2


def test_what_nothing_uses_makes_room_for_what_is_new(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    taken = store.Store(store.folder_of(tmp_path, "glioma")).size()
    for file in (tmp_path / "export" / "export 0 0").iterdir():
        file.unlink()
    write(tmp_path / "export", [1])
    bound = settings(tmp_path / "export", disk=taken * 3 // 2, refresh="0s")
    prepared(tmp_path, bound)
    prepared(tmp_path, bound)
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {})
    assert store.Store(store.folder_of(tmp_path, "glioma")).size() <= taken * 3 // 2


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
    assert judged(joined.digest, look_at_prepared(config, "glioma", tmp_path, cache)) is None
    other, _ = build.for_experiment("glioma", config, tmp_path, SECRET, tmp_path / "cache" / "e-2", quiet)
    assert len(contents(other)) == 2


@pytest.mark.parametrize("change", ["a case is gone", "the state is gone", "the list of the withdrawn changed"])
def test_a_prepared_set_that_is_not_what_was_joined_with_is_seen(change: str, tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    (tmp_path / "withdrawn").write_text("")
    config = settings(tmp_path / "export", withdrawn=str(tmp_path / "withdrawn"))
    cache = tmp_path / "cache" / "e-1"
    assert judged(None, look_at_prepared(config, "glioma", tmp_path, cache)) is None  # before it is prepared
    _, first = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    assert judged(first.fingerprint, look_at_prepared(config, "glioma", tmp_path, cache)) is None
    lying = store.Store(store.folder_of(tmp_path, "glioma"))
    if change == "a case is gone":
        lying.make_room((), 0, 0.0)
    elif change == "the state is gone":
        lying.drop_sets(())
    else:
        (tmp_path / "withdrawn").write_text("KH-0009\n")
    seen = look_at_prepared(config, "glioma", tmp_path, cache)
    assert judged(first.fingerprint, seen) is Reason.DATASET_CHANGED


def test_a_pacs_that_refuses_one_series_costs_one_study_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "export", range(2))
    refusing = [True]

    class Refusing(Watched):
        def fetch(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
            if refusing[0] and series.study == first and series.modality == "SEG":
                raise PacsRefused("out of resources (A700)", where="PACS")
            return super().fetch(series, has, take)

    def opened(config: DicomDataset, state: Path) -> Watched:
        return Refusing(config, state, asked)

    asked: Counter[str] = Counter()
    config = settings(tmp_path / "export")
    first = open_source(config, tmp_path).find()[0].uid
    monkeypatch.setattr(preparation, "open_source", opened)
    prepared(tmp_path, config)
    assert counted(tmp_path).left_out == {Reason.RETRIEVE_FAILED: 1}
    refusing[0], before = False, asked["objects"]
    prepared(tmp_path, config)  # a look that failed is never young enough
    assert counted(tmp_path).left_out == {}
    assert asked["objects"] - before == 1  # the segmentation; the rest was kept


def test_a_pacs_that_refuses_study_after_study_ends_the_preparation_and_what_was_prepared_stays(
    export: tuple[Path, list[Phantom]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "first", [7])
    prepared(tmp_path, settings(tmp_path / "first"))
    before = counted(tmp_path)

    class Refusing(Watched):
        def fetch(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
            raise PacsRefused("not authorised (0124)", where="PACS")

    monkeypatch.setattr(preparation, "open_source", lambda config, state: Refusing(config, state, Counter()))
    with pytest.raises(PacsRefused, match="0124"):
        prepared(tmp_path, settings(export[0]))
    assert counted(tmp_path) == before


STRUCK = {"dicom:spooled": 60, "dicom:storing": 2, "dicom:stored": 1, "dicom:judged": 2}
"""How often a step is passed before it kills: in the middle of the second study, at the second case."""
CHILD = """
import sys
from pathlib import Path
from dicom_rig import SECRET, settings
from site_agent.dicom import build
build.materialise("glioma", settings(Path(sys.argv[1])), Path(sys.argv[2]), SECRET, lambda *_: None, processes=1)
"""


@pytest.mark.parametrize("step", crash.PREPARATION)
def test_killed_at_any_step_it_goes_on_and_ends_with_the_same_set(
    step: str, export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path, asked: Counter[str]
) -> None:
    at = tmp_path / "at"
    at.write_text(f"{step} {STRUCK.get(step, 1)}")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(export[0]), str(tmp_path / "killed")],
        env={**os.environ, crash.AT: str(at), "PYTHONPATH": paths},
        timeout=100,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    lying = tmp_path / "killed" / "datasets" / "glioma"
    dataset = prepared(tmp_path / "killed", settings(export[0]))
    assert counted(tmp_path / "killed") == counted(calm)
    assert contents(dataset) == contents(build.dataset_of("glioma", settings(export[0]), calm, counted(calm)))
    assert asked["objects"] < 3 * OBJECTS  # what had come was not fetched again
    assert not [path for path in lying.rglob(".*") if path.name != ".manifest.json"]


def test_two_processes_make_the_same_set_as_one(export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path) -> None:
    one = build.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    two = build.materialise("glioma", settings(export[0]), tmp_path / "2", SECRET, quiet, processes=2)
    assert contents(one) == contents(two)


def test_a_second_preparation_waits_for_the_first_and_says_so(
    export: tuple[Path, list[Phantom]], tmp_path: Path, asked: Counter[str]
) -> None:
    lying = store.Store(store.folder_of(tmp_path, "glioma"))
    told: list[tuple[int, int]] = []
    done: list[DatasetConfig] = []

    def work() -> None:
        done.append(
            build.materialise(
                "glioma", settings(export[0]), tmp_path, SECRET, lambda *now: told.append(now), processes=1
            )
        )

    with lying.lock(lambda: None):
        second = threading.Thread(target=work)
        second.start()
        eventually(lambda: (0, 0) in told, what="word that it waits")
        assert not asked
    second.join(60)
    assert len(contents(done[0])) == 3
    assert told[-1] == (3, 3)


def test_a_disk_that_is_full_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "export", [0])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(WorkFailed, match="the disk is full") as failed:
            prepared(tmp_path, settings(tmp_path / "export"))
    assert getattr(failed.value, "reason", None) is Reason.DISK_FULL
    prepared(tmp_path, settings(tmp_path / "export"))
    assert counted(tmp_path).used == 1


def test_a_folder_that_is_gone_is_no_empty_set(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    with pytest.raises(DataError):
        prepared(tmp_path, settings(tmp_path / "nowhere"))
    assert counted(tmp_path).used == 1


def test_a_process_that_dies_takes_only_its_own_study_with_it(
    export: tuple[Path, list[Phantom]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tmp_path / "at"
    monkeypatch.setenv(crash.AT, str(at))
    at.write_text("dicom:storing 1")
    died: list[int] = []
    real = Makers._one_by_one

    def noticed(self: Makers, suspects: list[Any]) -> Any:
        died.append(len(suspects))
        yield from real(self, suspects)

    monkeypatch.setattr(Makers, "_one_by_one", noticed)
    dataset = build.materialise("glioma", settings(export[0]), tmp_path, SECRET, quiet, processes=2)
    assert died
    assert len(contents(dataset)) == 3
