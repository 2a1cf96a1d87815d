"""How files are called and laid out: nnU-Net's folders, endings of the operator's own, two files for one role."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from nifti_files import (
    OTHER,
    describe,
    list_datasets,
    make_image,
    make_label,
    save_case,
    save_image,
    save_pair,
    say_datasets,
    survey,
    write_site,
)

from deploy.demo.data import read_real
from deploy.demo.experiments import decathlon_demo
from deploy.demo.partition import deal_patients
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, DataError
from messages.ground.settings import parse_settings
from messages.reasons import Reason
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Survey, load_case, survey_cases

TWO = ("a_001", "a_002")
OLD = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "NCR", "2": "ED", "3": "ET"}}
NEW = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "NCR": 1, "ED": 2, "ET": 3},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
REGIONS = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
    "regions_class_order": [1, 2, 3],
}


def save_raw(data: Path, described: object, names: tuple[str, ...] = TWO, ending: str = ".nii.gz") -> None:
    for seed, name in enumerate(names):
        for channel in range(2):
            save_image(data / "imagesTr" / f"{name}_{channel:04}{ending}", make_image(10 * channel + seed))
        save_image(data / "labelsTr" / f"{name}{ending}", make_label())
    (data / "dataset.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(described).encode())


@pytest.mark.parametrize("described", [OLD, NEW], ids=["nnU-Net 1", "nnU-Net 2"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nnunets_raw_layout_is_used_as_it_is(tmp_path: Path, described: dict[str, object], ending: str) -> None:
    save_raw(tmp_path / "data", described, ending=ending)
    (tmp_path / "data" / "imagesTs").mkdir()
    status, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert (status, told["used"], told["found"]) == (0, 2, 2)
    assert (told["channels"], told["concepts"]) == (["T1", "FLAIR"], ["ED", "ET", "NCR"])
    config = DatasetConfig(source="decathlon", path=tmp_path / "data")
    (case, _) = survey_cases(config, ["FLAIR", "T1"], ["ET"]).cases
    loaded = load_case(case, config)
    np.testing.assert_array_equal(loaded.image, np.stack([make_image(10), make_image(0)]))
    named = [loaded.concepts[value - 1] for value in loaded.label[[2, 4, 2], [3, 5, 6], [2, 2, 3]]]
    assert named == ["NCR", "ED", "ET"]


def test_with_labels_and_channels_in_site_toml_no_dataset_json_is_needed(tmp_path: Path) -> None:
    save_raw(tmp_path / "data", NEW)
    for content in (None, "{", '{"labels": [1]}'):
        (tmp_path / "data" / "dataset.json").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "data" / "dataset.json").write_text(content)
        more = 'channels = ["T1", "FLAIR"]\nlabels = { 1 = "NCR", 2 = "ED", 3 = "ET" }\n'
        status, told = list_datasets(write_site(tmp_path, "decathlon", more))
        assert (status, told["used"]) == (0, 2)


def test_a_raw_case_without_one_of_its_channels_or_with_one_too_many_is_told(tmp_path: Path) -> None:
    save_raw(tmp_path / "data", NEW)
    images = tmp_path / "data" / "imagesTr"
    (images / "a_001_0001.nii.gz").rename(images / "a_001_0002.nii.gz")
    status, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert (status, told["used"], told["left_out"]) == (0, 1, {"missing-channel": 1})
    assert "a_001_0002.nii.gz" in told["details"][0]


def test_names_that_end_in_numbers_are_decathlons_where_image_and_label_have_one_name(tmp_path: Path) -> None:
    for name in ("x_0001", "x_0002", "x_0003"):
        save_image(tmp_path / "data" / "imagesTr" / f"{name}.nii.gz", make_image())
        save_image(tmp_path / "data" / "labelsTr" / f"{name}.nii.gz", make_label())
    save_image(tmp_path / "data" / "labelsTr" / "x.nii.gz", make_label())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(OLD | {"modality": {"0": "T1"}}))
    status, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert (status, told["used"], told["left_out"]) == (0, 3, {"no-image": 1})


def test_an_integer_that_only_regions_name_is_nobodys_whole(tmp_path: Path) -> None:
    save_raw(tmp_path / "data", REGIONS)
    _, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert (told["used"], told["concepts"]) == (2, ["enhancing_tumor", "label-1", "label-2"])


def test_a_case_in_which_somebody_left_voxels_unannotated_is_left_out_and_the_others_are_used(tmp_path: Path) -> None:
    labels = {"background": 0, "NCR": 1, "ED": 2, "ignore": 3}
    save_raw(tmp_path / "data", NEW | {"labels": labels})
    whole = np.where(make_label() == 3, 0, make_label())
    save_image(tmp_path / "data" / "labelsTr" / "a_002.nii.gz", whole)
    _, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert (told["used"], told["left_out"], told["concepts"]) == (1, {"unknown-label-value": 1}, ["ED", "NCR"])
    assert '"ignore"' in told["details"][0]


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (NEW | {"file_ending": ".nrrd"}, '"\\.nrrd"'),
        (NEW | {"labels": {"background": 0, "tumour": "large"}}, "does not map integers to names, nor names"),
        (NEW | {"labels": {"background": 0, "a": 1, "b": 1}}, "gives the integer 1 two names"),
        (NEW | {"labels": {"background": 0, "a": 1.5}}, "does not map integers"),
        (NEW | {"labels": {"background": 0, "a": -1}}, "does not map integers"),
        (NEW | {"labels": {"a": 70000}}, "at most 65535"),
        (NEW | {"labels": "NCR"}, "does not map integers to names"),
        (NEW | {"channel_names": {"0": "CT", "1": "CT"}}, 'two modalities one name.*channels = \\["T1", "T2"\\]'),
        (NEW | {"channel_names": {"1": "T1", "2": "FLAIR"}}, "from 0 on"),
        (NEW | {"channel_names": "T1"}, "does not number the modalities"),
        ([NEW], "is not a JSON object"),
    ],
)
def test_a_dataset_json_that_contradicts_itself_is_told_in_one_line(
    tmp_path: Path, described: object, says: str
) -> None:
    save_raw(tmp_path, described)
    with pytest.raises(DataError, match=f"dataset\\.json: .*{says}"):
        survey_cases(DatasetConfig(source="decathlon", path=tmp_path), ["T1"], ["NCR"])


def test_names_that_a_concept_cannot_hold_become_numbers_where_they_would_mean_two_things(tmp_path: Path) -> None:
    labels = {"background": 0, "left lung": 1, "left-lung": 2, "left_lung": 3, "3rd ventricle": 4, "x" * 40: 5}
    save_raw(tmp_path / "data", NEW | {"labels": labels})
    _, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert told["concepts"] == ["label-1", "label-3", "label-4", "left-lung", "x" * 32]


@pytest.mark.parametrize("described", [OLD, NEW, REGIONS])
def test_the_demo_takes_nnunets_raw_layout(tmp_path: Path, described: dict[str, object]) -> None:
    save_raw(tmp_path / "all", described, ("a_001", "a_002", "b_003", "b_004"))
    real = read_real(tmp_path / "all")
    assert real.channels == ("T1", "FLAIR")
    concepts = tuple(real.labels[value] for value in sorted(real.labels))
    plain = decathlon_demo(2, 1, ["site-a", "site-b"], real.channels, concepts, real.regions)
    task = Experiment.model_validate(plain).task
    targets = [tmp_path / "site-a", tmp_path / "site-b"]
    assert deal_patients(real.path, targets, seed=1) == [2, 2]
    for target in targets:
        source = DatasetConfig.model_validate(real.describe_source(target))
        found = survey_cases(source, task.channels, task.concepts)
        assert (len(found.cases), found.left_out) == (2, {})
    if described is REGIONS:
        assert plain["task"]["regions"]["whole-tumor"] == ["enhancing-tumor", "label-1", "label-2"]
        assert set(task.targets) == {"whole-tumor", "tumor-core", "enhancing-tumor"}


@pytest.mark.parametrize(
    ("name", "image", "label"),
    [
        ("UPENN-GBM-00001_11", "_T1GD", "_segm"),
        ("UCSF-PDGM-0004", "_T1c", "_tumor_segmentation"),
        ("BraTS-MEN-RT-0001-1", "_t1c", "_gtv"),
    ],
)
def test_public_sets_of_other_endings_are_known(tmp_path: Path, name: str, image: str, label: str) -> None:
    save_case(tmp_path, name, image=f"{image}.nii.gz", label=f"{label}.nii.gz")
    assert [case.key for case in survey(tmp_path).cases] == [name]


def test_a_label_that_nothing_recognises_is_named_and_the_operator_can_say_how_it_is_called(tmp_path: Path) -> None:
    save_case(tmp_path / "data", "p1", image="_T1post.nii.gz", label="_lesion.mask.nii.gz")
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["used"], told["left_out"]) == (0, 0, {"no-image": 1})
    assert "p1_T1post.nii.gz" in told["details"][0]
    assert "names = {" in told["details"][0]
    save_case(tmp_path / "data", "p1", image="_t1c.nii.gz", label="_lesion.mask.nii.gz")
    (tmp_path / "data" / "p1" / "p1_T1post.nii.gz").unlink()
    _, told = list_datasets(write_site(tmp_path))
    assert told["left_out"] == {"no-label": 1}
    assert "p1_lesion.mask.nii.gz" in told["details"][0]
    save_case(tmp_path / "data", "p1", image="_T1post.nii.gz", label="_lesion.mask.nii.gz")
    (tmp_path / "data" / "p1" / "p1_t1c.nii.gz").unlink()
    more = '[datasets.glioma.names]\nlabel = ["lesion.mask"]\nT1c = ["T1post", "T1gad"]\n'
    status, told = list_datasets(write_site(tmp_path, more=more))
    assert (status, told["used"], told["channels"]) == (0, 1, ["T1c"])


def test_the_longest_ending_decides_and_ignored_files_are_no_rivals(tmp_path: Path) -> None:
    case = save_case(tmp_path, "p1", label="_segm.nii.gz")
    save_image(case / "p1_automated_approx_segm.nii.gz", np.zeros_like(make_label()))
    assert survey(tmp_path).left_out == {Reason.SEVERAL_LABELS: 1}
    named = {"label": ["segm"], "ignore": ["automated_approx_segm"]}
    assert len(survey(tmp_path, names=named).cases) == 1
    (label,) = [one.label for one in survey(tmp_path, names={"label": ["approx_segm"]}).cases]
    assert label.name == "p1_automated_approx_segm.nii.gz"


def test_labels_of_a_decathlon_folder_may_have_an_ending_of_their_own(tmp_path: Path) -> None:
    save_image(tmp_path / "imagesTr" / "a_1.nii.gz", make_image())
    save_image(tmp_path / "labelsTr" / "a_1_seg.nii.gz", make_label())
    (tmp_path / "dataset.json").write_text(json.dumps(OLD | {"modality": {"0": "T1"}}))
    plain = DatasetConfig(source="decathlon", path=tmp_path)
    assert survey_cases(plain, ["T1"], ["NCR"]).left_out == {Reason.NO_IMAGE: 1, Reason.NO_LABEL: 1}
    named = DatasetConfig(source="decathlon", path=tmp_path, names={"label": ("seg",)})
    assert [case.key for case in survey_cases(named, ["T1"], ["NCR"]).cases] == ["a_1"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"label": []}, "at least one ending"),
        ({"label": ["seg"], "T1": ["SEG"]}, "given twice"),
        ({"label": ["seg.nii.gz"]}, "no ending of a name"),
        ({"label": ["a/b"]}, "no ending of a name"),
        ({"a label!": ["seg"]}, 'is neither "label", "ignore" nor a modality'),
        ({"Label": ["seg"]}, 'is neither "label", "ignore" nor a modality'),
    ],
)
def test_names_that_make_no_sense_are_told(tmp_path: Path, names: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        describe(tmp_path, names=names)


def test_a_folder_of_images_that_are_laid_out_otherwise_names_one(tmp_path: Path) -> None:
    save_image(tmp_path / "data" / "p1_t1c.nii.gz", make_image())
    status, told = list_datasets(write_site(tmp_path))
    assert status == 2
    assert "but NIfTI files such as p1_t1c.nii.gz" in told["error"]
    bids = tmp_path / "bids" / "data" / "sub-01" / "anat"
    save_image(bids / "sub-01_T1w.nii.gz", make_image())
    _, told = list_datasets(write_site(tmp_path / "bids"))
    assert "holds no case, but NIfTI files such as sub-01_T1w.nii.gz" in told["error"]


def test_files_that_nothing_recognises_are_told_beside_cases_that_are_used_without_them(tmp_path: Path) -> None:
    save_image(save_pair(tmp_path / "data") / f"{OTHER}-adc.nii.gz", make_image())
    save_image(tmp_path / "data" / "loose.nii", make_image())
    found = survey(tmp_path / "data")
    assert len(found.cases) == 2
    (line,) = [remark for remark in found.remarks if "nothing says" in remark]
    assert "loose.nii, other-adc.nii.gz are" in line
    assert not [one for one in survey(tmp_path / "data", names={"ADC": ["adc"]}).remarks if "adc" in one]


def test_an_ending_that_no_file_has_is_told(tmp_path: Path) -> None:
    save_pair(tmp_path)
    found = survey(tmp_path, names={"label": ["seg", "Mask"], "ADC": ["adc"]})
    assert len(found.cases) == 2
    assert "no file's name ends with Mask, adc (names in site.toml)" in found.remarks
    save_image(tmp_path / "pairs" / "imagesTr" / "a.nii.gz", make_image())
    save_image(tmp_path / "pairs" / "labelsTr" / "a.nii.gz", make_label())
    (tmp_path / "pairs" / "dataset.json").write_text(json.dumps(OLD | {"modality": {"0": "T1"}}))
    config = DatasetConfig(source="decathlon", path=tmp_path / "pairs", names={"label": ("_mask",)})
    assert "ends with _mask" in survey_cases(config, ["T1"], ["NCR"]).remarks[0]


def test_a_modality_whose_name_no_experiment_can_have_gets_one_that_it_can(tmp_path: Path) -> None:
    save_raw(tmp_path / "data", NEW | {"channel_names": {"0": "T1 (MPRAGE)", "1": "FLAIR"}})
    _, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert told["channels"] == ["T1_MPRAGE_", "FLAIR"]


def test_a_case_with_two_raters_is_left_out_and_both_are_named(tmp_path: Path) -> None:
    case = save_pair(tmp_path / "data")
    (case / f"{OTHER}-seg.nii.gz").unlink()
    save_image(case / f"{OTHER}-rater1-seg.nii.gz", make_label())
    save_image(case / f"{OTHER}-rater2-seg.nii.gz", np.where(make_label() == 2, 0, make_label()).astype(np.uint8))
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["used"], told["left_out"]) == (0, 1, {"several-labels": 1})
    assert "rater1-seg.nii.gz" in told["details"][0]
    assert "rater2-seg.nii.gz" in told["details"][0]
    assert "several-labels" in say_datasets(tmp_path / "site.toml")
    more = 'names = { label = ["seg", "rater1-seg"], ignore = ["rater2-seg"] }\n'
    _, told = list_datasets(write_site(tmp_path, more=more))
    assert told["used"] == 2


@pytest.mark.parametrize("change", ["voxels", "place", "damaged"])
def test_two_files_for_one_modality_that_differ_are_told_where_the_modality_is_wanted(
    tmp_path: Path, change: str
) -> None:
    case = save_pair(tmp_path)
    save_image(case / f"{OTHER}-t2w.nii.gz", make_image(7))
    file = case / f"{OTHER}-t1c.nii"
    if change == "voxels":
        save_image(file, make_image(2) // 2)
    elif change == "place":
        save_image(file, make_image(2), np.eye(4))
    else:
        file.write_bytes(b"cut")
    assert survey(tmp_path).left_out == {Reason.AMBIGUOUS_SERIES: 1}
    save_image(tmp_path / "good" / "good-t2w.nii.gz", make_image(8))
    assert survey(tmp_path, ("T2",)).left_out == {}


def test_the_same_file_twice_is_no_question(tmp_path: Path) -> None:
    case = save_pair(tmp_path)
    packed = case / f"{OTHER}-t1c.nii.gz"
    (case / f"{OTHER}-t1c.nii").write_bytes(gzip.decompress(packed.read_bytes()))
    save_image(case / f"{OTHER}_seg.nii.gz", make_label().astype(np.float32))
    assert len(survey(tmp_path).cases) == 2


def test_two_files_of_one_name_in_a_decathlon_folder_are_compared(tmp_path: Path) -> None:
    for folder, voxels in (("imagesTr", make_image()), ("labelsTr", make_label())):
        save_image(tmp_path / folder / "a.nii.gz", voxels)
        save_image(tmp_path / folder / "a.nii", voxels)
    (tmp_path / "dataset.json").write_text(json.dumps(OLD | {"modality": {"0": "T1"}}))
    config = DatasetConfig(source="decathlon", path=tmp_path)
    assert len(survey_cases(config, ["T1"], ["NCR"]).cases) == 1
    save_image(tmp_path / "labelsTr" / "a.nii", 0 * make_label())
    assert survey_cases(config, ["T1"], ["NCR"]).left_out == {Reason.SEVERAL_LABELS: 1}


def test_an_earlier_verdict_does_not_hold_where_a_second_label_came(tmp_path: Path) -> None:
    case = save_pair(tmp_path / "data")
    cache = tmp_path / "survey.sqlite"
    config = describe(tmp_path / "data")
    assert len(survey_cases(config, ["T1c"], ["NCR"], cache=cache).cases) == 2
    save_image(case / f"{OTHER}_seg.nii.gz", 0 * make_label())
    for _ in range(2):
        assert survey_cases(config, ["T1c"], ["NCR"], cache=cache).left_out == {Reason.SEVERAL_LABELS: 1}


@pytest.mark.parametrize(
    "copy",
    [
        "{}-seg (1).nii.gz",
        "{}-seg(2).nii.gz",
        "{}-seg.nii (1).gz",
        "{}-seg - Copy.nii.gz",
        "{}-seg - Kopie (2).nii.gz",
        "{}-seg (Dr. Meier's conflicted copy 2024-01-01).nii.gz",
        "{}-seg.sync-conflict-20240101-120000-ABCDEFG.nii.gz",
        "{}-seg_copy.nii.gz",
    ],
)
def test_a_second_copy_of_a_label_that_differs_leaves_out_the_case(tmp_path: Path, copy: str) -> None:
    other = save_pair(tmp_path / "data")
    same = save_case(tmp_path / "data", "third", seed=3)
    save_image(tmp_path / "none.nii.gz", np.zeros_like(make_label())).rename(other / copy.format(OTHER))
    save_image(tmp_path / "same.nii.gz", make_label()).rename(same / copy.format("third"))

    found = survey(tmp_path / "data")

    assert [case.key for case in found.cases] == ["good", "third"]
    assert found.left_out == {Reason.SEVERAL_LABELS: 1}
    assert copy.format(OTHER) in found.details[0].text


def test_a_file_that_a_browser_numbered_is_the_case_where_it_is_alone(tmp_path: Path) -> None:
    folder = save_case(tmp_path / "data", "only")
    (folder / "only-seg.nii.gz").rename(folder / "only-seg (1).nii.gz")
    assert survey(tmp_path / "data").found == len(survey(tmp_path / "data").cases) == 1


def survey_pairs(data: Path) -> Survey:
    told = {"source": "decathlon", "path": data, "channels": ["T1"], "labels": {"1": "NCR", "2": "ED", "3": "ET"}}
    return survey_cases(parse_settings(told, DatasetConfig, "site.toml"), ("T1",), ["NCR"])


def test_numbers_in_brackets_that_tell_decathlon_cases_apart_make_no_copies_of_them(tmp_path: Path) -> None:
    data, names = tmp_path / "data", ("patient (1)", "patient (2)", "third", "third (1)")
    for seed, name in enumerate(names):
        save_image(data / "imagesTr" / f"{name}.nii.gz", make_image(seed))
        save_image(data / "labelsTr" / f"{name}.nii.gz", make_label())

    found = survey_pairs(data)

    assert [case.key for case in found.cases] == ["patient (1)", "patient (2)"]
    assert found.left_out == {Reason.AMBIGUOUS_SERIES: 1}


@pytest.mark.parametrize("file", ["x-t1c.img", "x-t1c.img.gz", "x-t1c.nrrd", "x-t1c.mha", "x-t1c.mgz", "IM0001.dcm"])
def test_an_image_in_a_format_that_is_not_read_is_named(tmp_path: Path, file: str) -> None:
    other = save_pair(tmp_path / "data")
    (other / f"{OTHER}-t1c.nii.gz").unlink()
    (other / file).write_bytes(b"image")
    (tmp_path / "data" / "alone").mkdir()
    (tmp_path / "data" / "alone" / file).write_bytes(b"image")

    found = survey(tmp_path / "data")

    assert (found.found, found.left_out) == (3, {Reason.NO_IMAGE: 2})
    assert all(file in one.text and "Convert it to NIfTI" in one.text for one in found.details)


def test_a_label_in_a_format_that_is_not_read_is_its_cases(tmp_path: Path) -> None:
    data = tmp_path / "data"
    save_image(data / "imagesTr" / "one.nii.gz", make_image())
    save_image(data / "labelsTr" / "two-seg.nii.gz", make_label())
    (data / "labelsTr" / "one-seg.nrrd").write_bytes(b"NRRD0004")
    told = {"source": "decathlon", "path": data, "channels": ["T1"], "labels": {"1": "NCR", "2": "ED", "3": "ET"}}
    config = parse_settings({**told, "names": {"label": ["seg"]}}, DatasetConfig, "site.toml")

    found = survey_cases(config, ("T1",), ["NCR"])

    assert found.left_out == {Reason.NO_IMAGE: 1, Reason.NO_LABEL: 1}
    assert "one-seg.nrrd" in found.details[0].text


def test_images_of_a_decathlon_folder_in_a_format_that_is_not_read_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("one", "two"):
        save_image(data / "imagesTr" / f"{name}.nii.gz", make_image())
        save_image(data / "labelsTr" / f"{name}.nii.gz", make_label())
    (data / "imagesTr" / "two.nii.gz").rename(data / "imagesTr" / "two.nrrd")

    found = survey_pairs(data)

    assert [case.key for case in found.cases] == ["one"]
    assert "two.nrrd" in found.details[0].text


def test_a_label_that_lies_there_as_the_image_too_is_no_image(tmp_path: Path) -> None:
    other = save_pair(tmp_path / "data")
    save_image(other / f"{OTHER}-t1c.nii.gz", make_label())

    found = survey(tmp_path / "data")

    assert [case.key for case in found.cases] == ["good"]
    assert found.left_out == {Reason.AMBIGUOUS_SERIES: 1}
    assert "label map" in found.details[0].text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"/annex/objects/MD5E-s1--0.nii.gz\n", "git-annex"),
        (b"<!DOCTYPE html><title>Login</title>", "web page"),
        (bytes(4096), "zeros"),
    ],
)
def test_what_came_instead_of_a_nifti_file_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    other = save_pair(tmp_path / "data")
    (other / f"{OTHER}-t1c.nii.gz").write_bytes(content)

    found = survey(tmp_path / "data")

    assert found.left_out == {Reason.UNREADABLE: 1}
    assert says in found.details[0].text
