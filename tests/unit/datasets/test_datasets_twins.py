"""Nothing leaks between splits in silence: the same images under two patients, and settings that find no patient."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from messages.reasons import Reason
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.layouts import find_cases
from site_agent.datasets.remarks import remark_on_content, remark_on_names
from site_agent.datasets.source import Case, Survey, survey_cases
from site_agent.datasets.splits import split_cases, split_of
from site_agent.datasets.twins import Content, digest_content, find_everybodys, find_kin, find_other_names
from site_agent.datasets.vault import CASES, Vault

SHAPE, SECRET, THIRDS = (6, 5, 4), b"k" * 16, {"train": 0.34, "validation": 0.33, "test": 0.33}


def write_case(folder: Path, seed: int, *, labelled: int | None = None) -> None:
    folder.mkdir(parents=True)
    voxels = np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label.flat[: labelled or seed + 1] = 1
    for ending, content in (("t1c", voxels), ("seg", label)):
        nib.save(nib.Nifti1Image(content, np.diag([-1.0, 1, 2, 1])), folder / f"x-{ending}.nii.gz")


def config(root: Path, **more: Any) -> DatasetConfig:
    return DatasetConfig.model_validate({"source": "brats", "path": root, "labels": {1: "ET"}, **more})


def survey(root: Path, **more: Any) -> Survey:
    return survey_cases(config(root, **more), ["T1c"], ["ET"], cache=root / "cache.db")


def as_it_is(image: Any) -> Any:
    return image


def as_floats(image: Any) -> Any:
    return nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float64), image.affine)


def turned_round(image: Any) -> Any:
    """The same place in space, stored by another converter."""
    return image.as_reoriented([[1, -1], [0, 1], [2, -1]])


@pytest.mark.parametrize("copied", [as_it_is, as_floats, turned_round])
def test_the_same_images_under_two_patients_are_told_and_stay_in_one_split(copied: Any, tmp_path: Path) -> None:
    for number in range(12):
        write_case(tmp_path / f"p{number:02d}", number)
    shutil.copytree(tmp_path / "p03", tmp_path / "p98")
    for path in (tmp_path / "p98").iterdir():
        nib.save(copied(nib.load(path)), path)
    for _ in range(2):  # the second time from the cache
        found = survey(tmp_path)
        assert [one for one in found.remarks if "2 cases of several patients have the same images (p03, p98)" in one]
        assert {case.key: case.kin for case in found.cases if case.kin} == dict.fromkeys(("p03", "p98"), ("p03", "p98"))
    parted = False
    for seed in range(8):
        parts = split_cases(found.cases, SECRET, seed, THIRDS)
        places = {case.key: name for name, cases in parts.items() for case in cases}
        assert places["p03"] == places["p98"]
        parted |= split_of(SECRET, "p03", seed, THIRDS) != split_of(SECRET, "p98", seed, THIRDS)
        others = {key: name for key, name in places.items() if key not in ("p03", "p98")}
        assert others == {key: split_of(SECRET, key, seed, THIRDS) for key in others}
    assert parted  # without the look at content, the copy would have been tested on


def test_patients_that_share_content_through_a_third_are_one_group() -> None:
    contents = {"a": Content(("1",)), "b": Content(("1", "2")), "c": Content(("2",)), "d": Content(("3",))}
    assert find_kin(contents, str) == dict.fromkeys("abc", ("a", "b", "c"))


def test_two_examinations_of_one_patient_with_the_same_images_are_no_leak(tmp_path: Path) -> None:
    write_case(tmp_path / "BraTS-GLI-00001-000", 1)
    shutil.copytree(tmp_path / "BraTS-GLI-00001-000", tmp_path / "BraTS-GLI-00001-001")
    found = survey(tmp_path)
    assert found.remarks == ()
    assert {case.kin for case in found.cases} == {()}


def test_the_place_of_patients_who_share_nothing_is_what_it_was() -> None:
    cases = [Case(f"p{number}", f"p{number}", (Path("i"),), Path("l")) for number in range(40)]
    parts = split_cases(cases, SECRET, 7, THIRDS)
    assert {case.key: name for name, group in parts.items() for case in group} == {
        case.key: split_of(SECRET, case.patient, 7, THIRDS) for case in cases
    }


def test_the_same_label_map_with_other_images_is_told(tmp_path: Path) -> None:
    for number in (1, 2):
        write_case(tmp_path / f"p{number}", number, labelled=9)
    found = survey(tmp_path)
    assert [one for one in found.remarks if "have the same label map (p1, p2), though their images differ" in one]
    assert {case.kin for case in found.cases} == {()}


def test_a_label_that_no_case_has_is_told(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", 1)
    found = survey(tmp_path, labels={1: "ET", 2: "ED"})
    assert found.remarks == ("no case's label map has ED",)


def test_digests_beside_encrypted_cases_are_keyed_with_the_sites_secret() -> None:
    image, label = np.ones((1, *SHAPE), np.float32), np.ones(SHAPE, np.uint8)
    keys = [b"", Vault(SECRET, CASES).make_key("twins"), Vault(SECRET[::-1] + b"x", CASES).make_key("twins")]
    assert len({digest_content(image, label, np.eye(4), key).images for key in keys}) == 3


@pytest.mark.parametrize(
    ("names", "expression", "said"),
    [
        (["P1_t0", "P1_t1", "P2_t0"], r"sub-(\d+)", "patient_id matches none of 3 names (such as P1_t0)"),
        (["P1_t0", "P1_t1", "X"], r"(P\d)", "patient_id does not match 1 of 3 names (X)"),
        (["P1_t0", "P1_t1", "P2_t0"], r"(P)", "all 3 cases are one patient's by their names"),
        (["P1_t0", "P1_t1", "P2_t0"], None, "P1_t0, P1_t1 look like time points of one patient"),
        (["sub-01_ses-1", "sub-01_ses-2"], None, "look like time points of one patient"),
        (["P1_baseline", "P1_followup"], None, "look like time points of one patient"),
        (["P1_ses-1", "P1_ses-2", "P2_ses-1"], r"^(.+)$", "look like time points of one patient"),
        (["P1_pre", "P1_post"], None, "look like time points of one patient"),
        (["P1_pre-op", "P1_postop"], None, "look like time points of one patient"),
        (["P1a", "P1b"], None, "look like time points of one patient"),
        (["P1_2019-01-02", "P1_20200304"], None, "look like time points of one patient"),
    ],
)
def test_an_expression_that_finds_no_patient_and_names_like_time_points_are_told(
    names: list[str], expression: str | None, said: str
) -> None:
    (remark,) = remark_on_names(config(Path("x"), patient_id=expression), names)
    assert said in remark


@pytest.mark.parametrize(
    ("names", "expression"),
    [
        (["P1_t0", "P1_t1", "P2_t0"], r"(P\d)_t\d"),
        (["case_001", "case_002", "hippocampus_001"], None),
        (["BraTS-GLI-00001-000", "BraTS-GLI-00001-001"], None),
        (["T1", "T2"], None),
        (["BraTS20_Training_001", "BraTS20_Training_002"], None),
    ],
)
def test_names_that_say_who_the_patient_is_are_not_remarked_on(names: list[str], expression: str | None) -> None:
    assert [*remark_on_names(config(Path("x"), patient_id=expression), names)] == []


def test_names_are_one_persons_over_any_number_of_shared_images() -> None:
    held = {"p1": {"a", "b"}, "p2": {"b", "c"}, "p3": {"c"}, "p4": {"d"}}
    assert find_other_names({"a"}, held) == {"p1", "p2", "p3"}
    assert find_other_names({"x"}, held) == set()


def test_a_withdrawn_case_that_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    write_case(tmp_path / "p1", 1)
    write_case(tmp_path / "p2", 2)
    (tmp_path / "p1" / "x-t1c.nii.gz").write_bytes(b"damaged")
    (tmp_path / "w").write_text("p1\n")
    assert survey(tmp_path, withdrawn=tmp_path / "w").left_out == {Reason.WITHDRAWN: 1}


def test_one_image_under_two_channels_is_told() -> None:
    contents = {"P1": Content(("a", "a"), "l"), "P2": Content(("b", "c"), "l")}
    (line,) = remark_on_content(contents, lambda case: "P", {})
    assert line == "1 case with one image under several channels: P1"


def test_labels_in_a_folder_within_a_cases_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "P1" / "rater2").mkdir(parents=True)
    for name in ("P1/x-t1c.nii.gz", "P1/x-seg.nii.gz", "P1/rater2/x-seg.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    layout = find_cases(DatasetConfig.model_validate({"source": "brats", "path": tmp_path, "labels": {1: "ET"}}))
    assert layout.remarks[0].endswith("(another rater's labels?): P1/rater2")


def test_an_image_that_everybody_holds_hides_no_other_name_of_the_withdrawn() -> None:
    """An atlas among the channels: who holds the withdrawn's own image too is the same person all the same."""
    lost = {"atlas", "own"}
    held = {"b": {"atlas", "own"}, "c": {"atlas", "other"}, "d": {"atlas", "another"}}
    assert find_other_names(lost, held) == {"b"}
    assert find_everybodys(lost, held) == {"c", "d"}
    assert find_everybodys({"own"}, held) == set()
