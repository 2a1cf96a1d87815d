"""The demo's data: readable by the site's own loader, seeded, and not solvable by brightness."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deploy.demo.partition import deal_patients
from deploy.demo.phantoms import phantom
from deploy.demo.phantoms.threshold import best_thresholds, phantom_cases
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import load_case, survey_cases

CONCEPTS = ("ED", "ET", "NCR")


Cases = list[tuple[dict[str, np.ndarray], np.ndarray]]


@pytest.fixture(scope="module")
def consortium() -> Cases:
    """Four cases of each of three sites, in memory."""
    return list(phantom_cases(3, 4, 0))


def site(directory: Path, index: int, cases: int, seed: int = 5) -> DatasetConfig:
    phantom.write_site(directory, site_index=index, cases=cases, seed=seed)
    return DatasetConfig(
        source="brats", path=directory, labels=phantom.site_labels(index), patient_id=phantom.patient_id(index)
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_written_site_is_surveyed_without_a_case_left_out(tmp_path: Path, index: int) -> None:
    config = site(tmp_path, index, 3)
    found = survey_cases(config, phantom.CONTRASTS, CONCEPTS)
    assert (found.found, len(found.cases), found.left_out) == (3, 3, {})
    loaded = load_case(found.cases[0], config)
    images, label = phantom.make_case(site_index=index, patient=0, visit=0, seed=5)
    assert np.array_equal(loaded.image, np.stack([images[name] for name in phantom.CONTRASTS]).astype(np.float32))
    for value, concept in enumerate(("NCR", "ED", "ET"), start=1):
        assert np.array_equal(loaded.label == loaded.concepts.index(concept) + 1, label == value)
    assert nib.aff2axcodes(loaded.affine) == ("R", "A", "S")


def test_one_site_in_three_writes_the_integers_and_names_of_2021(tmp_path: Path) -> None:
    site(tmp_path / "b", 1, 1)
    (label,) = (tmp_path / "b").glob("BraTS2021_*/*_seg.nii.gz")
    assert set(np.unique(np.asarray(nib.load(label).dataobj))) <= {0, 1, 2, 4}
    assert phantom.site_labels(1)[4] == "ET"
    assert phantom.site_labels(0) == phantom.site_labels(2) == {1: "NCR", 2: "ED", 3: "ET"}


def test_some_patients_come_twice_and_share_a_patient(tmp_path: Path) -> None:
    names = [name for _, _, name in phantom.plan_cases(0, 10)]
    config = DatasetConfig(source="brats", path=tmp_path, labels={1: "NCR"}, patient_id=phantom.patient_id(0))
    patients = [config.patient_of(name) for name in names]
    assert len(set(names)) == 10
    assert len(set(patients)) == 8
    assert not {config.patient_of(name) for _, _, name in phantom.plan_cases(1, 10)} & set(patients)


def test_the_same_seed_writes_the_same_voxels_and_another_does_not(tmp_path: Path) -> None:
    def voxels(name: str, seed: int) -> str:
        site(tmp_path / name, 0, 1, seed)
        digest = sha256()
        for file in sorted((tmp_path / name).rglob("*.nii.gz")):
            digest.update(np.asarray(nib.load(file).dataobj).tobytes())
        return digest.hexdigest()

    assert voxels("a", 5) == voxels("b", 5)
    assert voxels("c", 6) != voxels("a", 5)


def test_tissues_have_the_relative_brightness_of_each_contrast() -> None:
    scanner = phantom.Scanner(noise=0.01, bias=0.0)
    sizes = phantom.TumourSizes(not_enhancing=0.0)
    for patient in range(3):
        images, label = phantom.make_case(site_index=0, patient=patient, visit=0, seed=2, scanner=scanner, sizes=sizes)
        assert all(np.array_equal(image == 0, images["T1"] == 0) for image in images.values())

        def mean(contrast: str, value: int, images: dict = images, label: np.ndarray = label) -> float:
            return float(images[contrast][(label == value) & (images["T1"] > 0)].mean())

        healthy = {name: mean(name, 0) for name in phantom.CONTRASTS}
        assert mean("FLAIR", 2) > 1.2 * healthy["FLAIR"]
        assert mean("T1c", 3) > 1.15 * healthy["T1c"]
        assert mean("T1c", 3) > 1.3 * mean("T1c", 1)
        assert mean("T2", 2) > healthy["T2"]
        assert mean("T1", 1) < healthy["T1"]


def test_tumours_nest_and_some_do_not_enhance(consortium: Cases) -> None:
    cases = [label for _, label in consortium]
    assert all((label > 0).sum() > 300 for label in cases)
    enhancing = [label for label in cases if (label == 3).any()]
    assert 6 <= len(enhancing) < 12
    for label in enhancing:
        beside = np.roll(label, 1, axis=0)[label == 1]  # what lies next to necrosis: necrosis or its rim
        assert np.isin(beside, (1, 3)).sum() >= 0.95 * beside.size
    assert any((label == 1).sum() > 100 for label in enhancing)


def test_brightness_alone_stays_below_half_mean_dice(consortium: Cases) -> None:
    best = best_thresholds(consortium)
    assert set(best) == {"WT", "TC", "ET"}
    assert 0.15 < np.mean([region.dice for region in best.values()]) < 0.5


def test_a_threshold_finds_what_only_a_threshold_is_needed_for() -> None:
    label = np.zeros((10, 10, 10), dtype=np.uint8)
    label[2:5, 2:5, 2:5] = 3
    bright = np.where(label > 0, 900, 100).astype(np.int16) + np.arange(10, dtype=np.int16)
    images = {
        name: bright if name == "T2" else np.full_like(bright, 5) + np.arange(10, dtype=np.int16)
        for name in phantom.CONTRASTS
    }
    best = best_thresholds([(images, label)])
    assert best["ET"].contrast == "T2"
    assert best["ET"].dice == pytest.approx(1.0)


def decathlon(root: Path, complete: int) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
        for i in range(complete):
            (root / folder / f"x_{i:03d}.nii.gz").write_bytes(b"x")
    (root / "imagesTr" / "x_900.nii.gz").write_bytes(b"x")
    (root / "labelsTr" / "x_901.nii.gz").write_bytes(b"x")
    (root / "dataset.json").write_text("{}")


def test_a_partition_is_even_complete_seeded_and_keeps_what_is_untidy(tmp_path: Path) -> None:
    decathlon(tmp_path / "all", 10)
    targets = [tmp_path / f"s{i}" for i in range(3)]
    counts = deal_patients(tmp_path / "all", targets, seed=1)
    assert sum(counts) == 12
    assert max(counts) - min(counts) <= 1
    dealt = [{path.name for path in target.glob("*Tr/*")} for target in targets]
    assert set.union(*dealt) == {path.name for path in (tmp_path / "all").glob("*Tr/*")}
    assert not dealt[0] & dealt[1]
    assert all(path.is_symlink() and path.exists() for target in targets for path in target.glob("*Tr/*"))
    assert all((target / "dataset.json").is_file() for target in targets)
    again = [tmp_path / f"t{i}" for i in range(3)]
    deal_patients(tmp_path / "all", again, seed=1)
    assert [{path.name for path in target.glob("*Tr/*")} for target in again] == dealt


def test_a_partition_keeps_a_patients_cases_at_one_site(tmp_path: Path) -> None:
    decathlon(tmp_path / "all", 12)
    targets = [tmp_path / f"s{i}" for i in range(2)]
    deal_patients(tmp_path / "all", targets, seed=3, patient_of=lambda name: name[:4])
    groups = [{path.name[:4] for path in target.glob("*Tr/*")} for target in targets]
    assert not groups[0] & groups[1]


def test_a_partition_refuses_too_many_sites_and_folders_in_use(tmp_path: Path) -> None:
    decathlon(tmp_path / "all", 1)
    with pytest.raises(DataError, match="3 patients cannot be split among 4 sites"):
        deal_patients(tmp_path / "all", [tmp_path / str(i) for i in range(4)], seed=0)
    with pytest.raises(DataError, match="is not empty"):
        deal_patients(tmp_path / "all", [tmp_path / "all"], seed=0)
    with pytest.raises(DataError, match="no such folder"):
        deal_patients(tmp_path / "nowhere", [tmp_path / "x"], seed=0)


def test_a_partitioned_site_counts_what_is_untidy_in_its_share(tmp_path: Path) -> None:
    voxels = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    for folder, name in (("imagesTr", "a"), ("labelsTr", "a"), ("imagesTr", "b"), ("labelsTr", "c")):
        (tmp_path / "all" / folder).mkdir(parents=True, exist_ok=True)
        content = voxels if folder == "imagesTr" else (voxels > 30).astype(np.float32)
        nib.save(nib.Nifti1Image(content, np.eye(4)), tmp_path / "all" / folder / f"{name}.nii.gz")
    deal_patients(tmp_path / "all", [tmp_path / "s"], seed=0)
    config = DatasetConfig(source="decathlon", path=tmp_path / "s", labels={1: "x"}, channels=("T1",))
    assert survey_cases(config, ["T1"], ["x"]).left_out == {Reason.NO_IMAGE: 1, Reason.NO_LABEL: 1}
