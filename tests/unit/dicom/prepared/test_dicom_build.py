"""From a folder of DICOM studies to a prepared data set: what comes out, and what is left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_rig import CHANNELS, SECRET, SHAPE, Phantom, contents, counted, prepared, quiet, series_of, settings, write

from messages.reasons import Reason
from site_agent.datasets import source
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.prepared import accounts, fingerprint
from site_agent.dicom.preparing import build

CONCEPTS = ("ED", "ET", "NCR")


def test_a_folder_of_studies_becomes_cases_that_differ_from_the_phantoms_by_half_a_rescale_slope(
    export: tuple[Path, list[Phantom]], calm: Path
) -> None:
    dataset = accounts.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    found = source.survey_cases(dataset, CHANNELS, CONCEPTS)
    assert (found.found, len(found.cases), found.left_out) == (3, 3, {})
    loaded = [source.load_case(case, dataset) for case in found.cases]
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
        build.prepare_dataset("glioma", settings(export[0]), tmp_path / name, secret, quiet, processes=1)
        prints.append(counted(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint.of_set(SECRET, ["a", "b"]) == fingerprint.of_set(SECRET, ["b", "a"])
    assert fingerprint.of_set(SECRET, ["a", "b"]) != fingerprint.of_set(SECRET[::-1], ["a", "b"])
    assert fingerprint.of_set(SECRET, ["a", "b"]) != fingerprint.of_set(SECRET, ["a"])


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


def test_two_visits_of_a_patient_are_two_cases_of_one_patient(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    write(tmp_path / "export", [0], visit=1)
    dataset = prepared(tmp_path, settings(tmp_path / "export"))
    cases = source.survey_cases(dataset, CHANNELS, CONCEPTS).cases
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
    plain = accounts.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    sealed = prepared(tmp_path / "sealed", settings(export[0], encrypt=True))
    names = [name for case in contents(sealed).values() for name in case]
    assert {name.rpartition(".")[2] for name in names} == {"enc"}
    assert source.survey_cases(sealed, CHANNELS, CONCEPTS).left_out == {Reason.UNREADABLE: 3}
    vault = Vault(SECRET, CASES)
    ours = source.survey_cases(sealed, CHANNELS, CONCEPTS, vault=vault).cases
    theirs = source.survey_cases(plain, CHANNELS, CONCEPTS).cases
    assert [case.key for case in ours] == [case.key for case in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(source.load_case(mine, sealed, vault).image, source.load_case(other, plain).image)


def test_cases_that_are_to_be_encrypted_from_now_on_do_not_stay_in_the_open(
    tmp_path: Path,
) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    prepared(tmp_path, settings(tmp_path / "export", encrypt=True))
    prepared(tmp_path, settings(tmp_path / "export", encrypt=True), again=True)
    lying = [path for path in (tmp_path / "datasets").rglob("*.nii*") if not path.is_symlink()]
    assert {path.suffix for path in lying} == {".enc"}


def test_two_processes_make_the_same_set_as_one(export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path) -> None:
    one = accounts.dataset_of("glioma", settings(export[0]), calm, counted(calm))
    two = build.prepare_dataset("glioma", settings(export[0]), tmp_path / "2", SECRET, quiet, processes=2)
    assert contents(one) == contents(two)
