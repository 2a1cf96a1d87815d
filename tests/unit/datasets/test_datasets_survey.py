"""Surveys over real files: what is unusable is left out under its reason, and the rest goes on."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from places import TEST_DATA

from messages.ground import settings
from messages.ground.errors import ConfigError, DataError
from messages.reasons import Reason
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import CaseError, Survey, load_case, survey_cases

CHANNELS = ("T1", "T1c", "T2", "FLAIR")
CONCEPTS = ("ED", "ET", "NCR")
SHAPE = (8, 9, 10)
NAMES_2023 = ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")
NAMES_2021 = ("_t1", "_t1ce", "_t2", "_flair", "_seg")


def write(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def brats_case(root: Path, name: str, endings: tuple[str, ...] = NAMES_2023, suffix: str = ".nii.gz") -> Path:
    """A good case; each channel holds its own value range, so that a mix-up shows."""
    rng = np.random.default_rng(list(name.encode()))
    for i, ending in enumerate(endings[:4]):
        write(root / name / f"{name}{ending}{suffix}", rng.integers(100 * i + 1, 100 * i + 99, SHAPE).astype(np.int16))
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[1:3], label[3:5], label[5:6] = 1, 2, 3
    write(root / name / f"{name}{endings[4]}{suffix}", label)
    return root / name


def config(root: Path, **more: object) -> DatasetConfig:
    content = {"source": "brats", "path": root, "labels": {"1": "NCR", "2": "ED", "3": "ET"}}
    return settings.parse_settings(content | more, DatasetConfig, "site.toml")


def surveyed(root: Path, **more: object) -> Survey:
    return survey_cases(config(root, **more), CHANNELS, CONCEPTS)


def only_reason(found: Survey) -> Reason:
    """The one reason of a folder with one good and one bad case."""
    assert [case.key for case in found.cases] == ["BraTS-GLI-00001-000"]
    assert found.found == 2
    assert len(found.left_out) == 1
    assert list(found.left_out.values()) == [1]
    assert [detail.key for detail in found.details] == ["BraTS-GLI-00002-000"]
    return next(iter(found.left_out))


@pytest.fixture
def good_and_other(tmp_path: Path) -> tuple[Path, Path]:
    """A data set with a good case and a second one for the test to spoil."""
    brats_case(tmp_path, "BraTS-GLI-00001-000")
    return tmp_path, brats_case(tmp_path, "BraTS-GLI-00002-000")


@pytest.mark.parametrize(
    ("endings", "suffix"), [(NAMES_2023, ".nii.gz"), (NAMES_2021, ".nii"), (NAMES_2021, ".nii.gz")]
)
def test_both_naming_styles_and_endings_load_with_channels_in_the_experiments_order(
    tmp_path: Path, endings: tuple[str, ...], suffix: str
) -> None:
    brats_case(tmp_path, "case-1", endings, suffix)
    wanted = ("FLAIR", "T1", "T2", "T1c")
    (case,) = survey_cases(config(tmp_path), wanted, CONCEPTS).cases
    loaded = load_case(case, config(tmp_path))
    assert [int(volume.min()) // 100 for volume in loaded.image] == [3, 0, 2, 1]
    assert loaded.image.shape == (4, *SHAPE)
    assert (loaded.image.dtype, loaded.label.dtype) == (np.float32, np.uint8)
    assert loaded.concepts == ("ED", "ET", "NCR")
    assert [int(loaded.label[x, 0, 0]) for x in (0, 1, 3, 5)] == [0, 3, 1, 2]


def test_four_means_enhancing_tumour_where_the_site_says_so(tmp_path: Path) -> None:
    folder = brats_case(tmp_path, "a", NAMES_2021)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[2] = 4
    write(folder / "a_seg.nii.gz", label)
    of_2021 = config(tmp_path, labels={"1": "NCR", "2": "ED", "4": "ET"})
    (case,) = survey_cases(of_2021, CHANNELS, CONCEPTS).cases
    loaded = load_case(case, of_2021)
    assert loaded.concepts[int(loaded.label[2, 0, 0]) - 1] == "ET"
    assert surveyed(tmp_path).left_out == {Reason.UNKNOWN_LABEL_VALUE: 1}


def test_an_integer_the_experiment_does_not_need_is_kept_under_its_own_concept(tmp_path: Path) -> None:
    folder = brats_case(tmp_path, "a")
    write(folder / "a-seg.nii.gz", np.full(SHAPE, 4, dtype=np.uint8))
    of_2024 = config(tmp_path, labels={"1": "NCR", "2": "ED", "3": "ET", "4": "RC"})
    (case,) = survey_cases(of_2024, CHANNELS, CONCEPTS).cases
    assert load_case(case, of_2024).concepts == ("ED", "ET", "NCR", "RC")
    assert np.unique(load_case(case, of_2024).label).tolist() == [4]


def test_an_image_without_a_label_is_left_out(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    next(other.glob("*-seg*")).unlink()
    assert only_reason(surveyed(root)) is Reason.NO_LABEL


def test_a_label_without_an_image_is_left_out(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    for file in other.glob("*-t*"):
        file.unlink()
    assert only_reason(surveyed(root)) is Reason.NO_IMAGE


def test_a_missing_modality_is_left_out_only_where_the_experiment_wants_it(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    next(other.glob("*-t1c*")).unlink()
    assert only_reason(surveyed(root)) is Reason.MISSING_CHANNEL
    assert len(survey_cases(config(root), ("T1", "FLAIR"), CONCEPTS).cases) == 2


@pytest.mark.parametrize("ending", ["-t2f", "-seg"])
@pytest.mark.parametrize("keep", [0, 5, 60, -30, -1])
def test_a_truncated_file_is_unreadable(good_and_other: tuple[Path, Path], ending: str, keep: int) -> None:
    root, other = good_and_other
    file = next(other.glob(f"*{ending}*"))
    file.write_bytes(file.read_bytes()[:keep])
    assert only_reason(surveyed(root)) is Reason.UNREADABLE


def test_a_truncated_file_without_compression_is_unreadable(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    file = next(other.glob("*-t1n*"))
    (other / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes())[:-40])
    file.unlink()
    assert only_reason(surveyed(root)) is Reason.UNREADABLE


def test_a_flipped_byte_in_a_compressed_file_is_found_by_its_checksum(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    file = next(other.glob("*-t2w*"))
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    assert only_reason(surveyed(root)) is Reason.UNREADABLE


def test_a_file_that_is_not_nifti_is_unreadable(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    next(other.glob("*-t1n*")).write_bytes(gzip.compress(b"not an image at all " * 100))
    assert only_reason(surveyed(root)) is Reason.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_case_folder_without_permission_is_unreadable_and_hides_no_other(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    other.chmod(0)
    try:
        assert only_reason(surveyed(root)) is Reason.UNREADABLE
    finally:
        other.chmod(0o700)


@pytest.mark.parametrize("shape", [(8, 9, 11), (8, 9, 10, 2), (8, 90)])
def test_unequal_shapes_are_left_out(good_and_other: tuple[Path, Path], shape: tuple[int, ...]) -> None:
    root, other = good_and_other
    write(next(other.glob("*-t2w*")), np.ones(shape, dtype=np.int16))
    assert only_reason(surveyed(root)) is Reason.SHAPE_MISMATCH


def test_unequal_positions_are_left_out_and_rounding_is_not(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    file = next(other.glob("*-t2w*"))
    voxels = np.asarray(nib.load(file).dataobj)
    write(file, voxels, np.eye(4) + 1e-4)
    assert surveyed(root).left_out == {}
    write(file, voxels, np.diag([1.0, 1.0, 1.2, 1.0]))
    assert only_reason(surveyed(root)) is Reason.AFFINE_MISMATCH


@pytest.mark.parametrize("value", [7, -1, 1.5])
def test_a_label_value_that_the_site_did_not_map_is_refused(good_and_other: tuple[Path, Path], value: float) -> None:
    root, other = good_and_other
    write(next(other.glob("*-seg*")), np.full(SHAPE, value, dtype=np.float32))
    assert only_reason(surveyed(root)) is Reason.UNKNOWN_LABEL_VALUE


@pytest.mark.parametrize("ending", ["-t1n", "-seg"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_not_finite_is_left_out(good_and_other: tuple[Path, Path], ending: str, value: float) -> None:
    root, other = good_and_other
    voxels = np.ones(SHAPE, dtype=np.float32)
    voxels[0, 0, 0] = value
    write(next(other.glob(f"*{ending}*")), voxels)
    assert only_reason(surveyed(root)) is Reason.NOT_FINITE


def test_an_image_of_one_value_is_empty(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    write(next(other.glob("*-t1n*")), np.zeros(SHAPE, dtype=np.int16))
    assert only_reason(surveyed(root)) is Reason.EMPTY_IMAGE


@pytest.mark.parametrize("line", ["BraTS-GLI-00002", "BraTS-GLI-00002-000  # since May"])
def test_withdrawn_patients_and_cases_are_left_out(good_and_other: tuple[Path, Path], line: str) -> None:
    root, _ = good_and_other
    (root / "withdrawn.txt").write_text(f"# by the ethics board\n\n{line}\n")
    assert only_reason(surveyed(root, withdrawn=root / "withdrawn.txt")) is Reason.WITHDRAWN


def test_a_list_of_the_withdrawn_that_cannot_be_read_stops_everything(good_and_other: tuple[Path, Path]) -> None:
    root, _ = good_and_other
    with pytest.raises(DataError, match=r"none\.txt: the list of withdrawn patients cannot be read"):
        surveyed(root, withdrawn=root / "none.txt")


def test_load_tells_the_reason_of_a_file_that_broke_after_the_survey(good_and_other: tuple[Path, Path]) -> None:
    root, other = good_and_other
    case = surveyed(root).cases[1]
    next(other.glob("*-t1n*")).write_bytes(b"")
    with pytest.raises(CaseError) as caught:
        load_case(case, config(root))
    assert caught.value.reason is Reason.UNREADABLE
    assert caught.value.exit_status == 2


def test_a_folder_that_is_not_there_or_is_a_file_or_holds_no_case_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: there is no such folder\. Check"):
        surveyed(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        surveyed(tmp_path / "file")
    with pytest.raises(DataError, match="holds no case"):
        surveyed(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match="no permission to read the folder"):
        surveyed(tmp_path / "locked")


def test_concepts_that_the_labels_do_not_name_are_told_before_any_file_is_read(tmp_path: Path) -> None:
    brats_case(tmp_path, "a")
    with pytest.raises(DataError, match=r"do not name ET\. .*1 = NCR, 2 = ED"):
        surveyed(tmp_path, labels={"1": "NCR", "2": "ED"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": {"0": "NCR"}}, "0 is background"),
        ({"labels": {}}, "name what each integer means"),
        ({"patient_id": "("}, "not a regular expression"),
        ({"patient_id": "a"}, "has 0 groups"),
        ({"channels": ["T1", "T1"]}, "name each modality once"),
        ({"sauce": 1}, "'sauce' is unknown"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_told(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, **change)


def test_the_configuration_survives_the_way_to_the_training_process(tmp_path: Path) -> None:
    sent = config(tmp_path, patient_id=r"BraTS-GLI-(\d+)-\d+", withdrawn=tmp_path / "w")
    assert DatasetConfig.model_validate(sent.model_dump(mode="json")) == sent
    assert sent.patient_of("BraTS-GLI-00017-001") == "00017"
    assert config(tmp_path).patient_of("BraTS-GLI-00017-001") == "BraTS-GLI-00017"
    assert config(tmp_path).patient_of("BraTS2021_00017") == "BraTS2021_00017"


def test_progress_counts_every_case(good_and_other: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    survey_cases(config(good_and_other[0]), CHANNELS, CONCEPTS, lambda done, of: seen.append((done, of)))
    assert seen == [(1, 2), (2, 2)]


def test_a_second_survey_answers_from_the_cache_until_a_file_or_a_rule_changes(
    good_and_other: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root, other = good_and_other
    cache = tmp_path_factory.mktemp("state") / "verdicts.db"
    image = next(other.glob("*-t1n*"))
    first = survey_cases(config(root), CHANNELS, CONCEPTS, cache=cache)
    assert len(first.cases) == 2
    # same size and time, other bytes: only a cache can still call it good
    status, content = image.stat(), image.read_bytes()
    image.write_bytes(b"\0" * len(content))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert survey_cases(config(root), CHANNELS, CONCEPTS, cache=cache) == first
    assert survey_cases(config(root), CHANNELS[:1], CONCEPTS, cache=cache).left_out == {Reason.UNREADABLE: 1}
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert survey_cases(config(root), CHANNELS, CONCEPTS, cache=cache).left_out == {Reason.UNREADABLE: 1}


def test_a_cached_refusal_reads_like_the_first(good_and_other: tuple[Path, Path], tmp_path: Path) -> None:
    root, other = good_and_other
    write(next(other.glob("*-t1n*")), np.zeros(SHAPE, dtype=np.int16))
    first = survey_cases(config(root), CHANNELS, CONCEPTS, cache=tmp_path / "v.db")
    again = survey_cases(config(root), CHANNELS, CONCEPTS, cache=tmp_path / "v.db")
    assert only_reason(again) is Reason.EMPTY_IMAGE
    assert again.left_out == first.left_out


def test_a_damaged_cache_is_replaced(good_and_other: tuple[Path, Path], tmp_path: Path) -> None:
    cache = tmp_path / "v.db"
    cache.write_bytes(b"this is no database, however long one looks at it" * 50)
    assert len(survey_cases(config(good_and_other[0]), CHANNELS, CONCEPTS, cache=cache).cases) == 2
    with sqlite3.connect(cache) as db:
        assert db.execute("SELECT count(*) FROM verdict").fetchone() == (2,)
    db.close()


def decathlon(root: Path, image: np.ndarray, description: dict[str, object] | None = None) -> DatasetConfig:
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[0], label[1] = 1, 2
    write(root / "imagesTr" / "a_1.nii.gz", image)
    write(root / "labelsTr" / "a_1.nii.gz", label)
    (root / "imagesTr" / "._a_1.nii.gz").write_bytes(b"a Mac was here")
    if description is not None:
        (root / "dataset.json").write_text(json.dumps(description))
    return DatasetConfig(source="decathlon", path=root)


def test_a_decathlon_folder_is_described_by_its_dataset_json(tmp_path: Path) -> None:
    image = np.stack([np.arange(720).reshape(SHAPE) + 1000 * i for i in range(2)], axis=-1).astype(np.float32)
    described = {
        "modality": {"1": "T2", "0": "FLAIR"},
        "labels": {"0": "background", "1": "edema", "2": "enhancing tumour"},
    }
    found = decathlon(tmp_path, image, described)
    (case,) = survey_cases(found, ["T2", "FLAIR"], ["edema"]).cases
    loaded = load_case(case, found)
    assert case.images == (tmp_path / "imagesTr" / "a_1.nii.gz",) * 2
    assert case.volumes == (1, 0)
    assert [int(volume.min()) for volume in loaded.image] == [1000, 0]
    assert loaded.concepts == ("edema", "enhancing_tumour")
    assert survey_cases(found, ["T1"], ["edema"]).left_out == {Reason.MISSING_CHANNEL: 1}


def test_a_three_dimensional_image_holds_one_modality_only(tmp_path: Path) -> None:
    decathlon(tmp_path, np.arange(720).reshape(SHAPE).astype(np.float32))
    claims_two = DatasetConfig(source="decathlon", path=tmp_path, labels={1: "a", 2: "b"}, channels=("T1", "T2"))
    assert len(survey_cases(claims_two, ["T1"], ["a"]).cases) == 1
    assert survey_cases(claims_two, ["T1", "T2"], ["a"]).left_out == {Reason.MISSING_CHANNEL: 1}


def test_a_decathlon_folder_that_nothing_describes_says_what_to_add(tmp_path: Path) -> None:
    bare = decathlon(tmp_path, np.arange(720).reshape(SHAPE).astype(np.float32))
    with pytest.raises(DataError, match="nothing names the images' modalities"):
        survey_cases(bare, ["T1"], ["a"])
    with pytest.raises(DataError, match="nothing says what the labels' integers mean"):
        survey_cases(bare.model_copy(update={"channels": ("T1",)}), ["T1"], ["a"])
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read as JSON"):
        survey_cases(bare, ["T1"], ["a"])


def test_the_real_hippocampus_set_is_surveyed_with_what_is_untidy_in_it_counted() -> None:
    path = TEST_DATA / "hippocampus"
    if not path.is_dir():
        pytest.skip("the hippocampus data is not here (KONSIL_TEST_DATA)")
    real = DatasetConfig(source="decathlon", path=path, labels={1: "anterior", 2: "posterior"}, channels=("T1",))
    found = survey_cases(real, ["T1"], ["anterior", "posterior"])
    assert found.left_out == {Reason.NO_IMAGE: 2, Reason.NO_LABEL: 1}
    assert found.found == len(found.cases) + 3 == 163
    assert {detail.key for detail in found.details} == {f"hippocampus_{n}" for n in ("010", "118", "281")}
    loaded = load_case(found.cases[0], real)
    assert set(np.unique(loaded.label)) == {0, 1, 2}
