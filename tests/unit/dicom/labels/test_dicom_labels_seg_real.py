"""Real DICOM SEG with their truth (dicom/seg of the test data), read on the CT slices that they were drawn on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_labels_rig import nrrd, refused
from places import TEST_DATA
from pydicom.dataset import Dataset

from messages.reasons import Reason
from site_agent.dicom.base import Volume
from site_agent.dicom.config import LabelRule, Labels
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.labels import segmentations
from site_agent.dicom.volumes import assembly

pytestmark = pytest.mark.skipif(not (TEST_DATA / "dicom").is_dir(), reason="needs the shared test data (shared/data)")


def real(*parts: str) -> Dataset:
    return pydicom.dcmread(TEST_DATA.joinpath("dicom", "seg", *parts))


def image(*parts: str) -> Volume:
    folder = TEST_DATA.joinpath("dicom", "seg", *parts)
    (built,) = assembly.build_volumes([pydicom.dcmread(path) for path in sorted(folder.iterdir())])
    return built


def truth(name: str, reference: Volume) -> np.ndarray[Any, Any]:
    """The truth's voxels, whose grid must be the image's."""
    voxels, affine = nrrd(TEST_DATA / "dicom" / "seg" / name)
    assert voxels.shape == reference.voxels.shape
    np.testing.assert_allclose(affine, reference.affine, atol=1e-4)
    return voxels


LIVER = Labels(concepts={"liver": LabelRule(codes=("SCT:10200004",))})


@pytest.mark.parametrize(
    ("folder", "label", "file"),
    [
        ("ct-3slice", ("liver.dcm",), "liver_seg.nrrd"),
        ("24x38x3/image", ("24x38x3", "seg", "label.seg"), "24x38x3/nrrd/label.nrrd"),
        ("23x38x3/image", ("23x38x3", "seg", "label.seg"), "23x38x3/nrrd/label.nrrd"),
        ("24x38x3/image", ("sparse-labelmap-noppv.dcm",), "sparse_labelmap_noppv_seg.nrrd"),
        ("24x38x3/image", ("sparse-labelmap-ppv5.dcm",), "sparse_labelmap_ppv5_seg.nrrd"),
    ],
)
def test_a_real_segmentation_of_the_liver_agrees_with_its_truth_voxel_by_voxel(
    folder: str, label: tuple[str, ...], file: str
) -> None:
    reference = image(*folder.split("/"))
    found = segmentations.read_segmentation(real(*label), reference, LIVER).voxels
    np.testing.assert_array_equal(found == 1, truth(file, reference) == 1)
    assert found.any()


PARTS: Mapping[int, str] = {
    1: "SCT:85756007",
    2: "SCT:51114001",
    3: "SCT:20982000",
    4: "SCT:79654002",
    5: "SCT:29092000",
}


@pytest.mark.parametrize("segment", PARTS)
def test_each_of_real_overlapping_segments_agrees_with_its_truth(segment: int) -> None:
    reference = image("ct-3slice")
    rules = Labels(concepts={"part": LabelRule(codes=(PARTS[segment],))})
    found = segmentations.read_segmentation(real("partial_overlaps.dcm"), reference, rules).voxels > 0
    files = [truth(f"partial_overlaps-{n}.nrrd", reference) == segment for n in (1, 2, 3)]
    np.testing.assert_array_equal(found, np.any(files, axis=0))
    assert found.any()


def test_real_overlapping_segments_are_refused_without_an_order_and_stacked_with_one() -> None:
    reference = image("ct-3slice")
    names = {number: f"part{number}" for number in PARTS}
    rules = Labels(concepts={names[number]: LabelRule(codes=(text,)) for number, text in PARTS.items()})
    assert refused(real("partial_overlaps.dcm"), reference, rules) == Reason.OVERLAPPING_LABELS
    ordered = rules.model_copy(update={"order": tuple(names.values())})
    expected_voxels = np.max([truth(f"partial_overlaps-{n}.nrrd", reference) for n in (1, 2, 3)], axis=0)
    np.testing.assert_array_equal(
        segmentations.read_segmentation(real("partial_overlaps.dcm"), reference, ordered).voxels, expected_voxels
    )


@pytest.mark.parametrize("name", ["liver.dcm", "partial_overlaps.dcm"])
def test_real_segmentations_agree_with_highdicoms_own_reading(name: str) -> None:
    reference = image("ct-3slice")
    read = highdicom.seg.Segmentation.from_dataset(real(name), copy=True)
    own = read.get_volume(combine_segments=False)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ own.affine[:, [2, 1, 0, 3]]
    for index, number in enumerate(read.segment_numbers):
        code = read.get_segment_description(number).segmented_property_type
        rules = Labels(concepts={"part": LabelRule(codes=(f"{code.scheme_designator}:{code.value}",))})
        found = segmentations.read_segmentation(real(name), reference, rules).voxels > 0
        theirs = np.asarray(own.array[..., index].transpose(2, 1, 0) > 0)
        offset = np.rint(np.linalg.inv(reference.affine) @ affine @ [0, 0, 0, 1]).astype(int)[2]
        step = np.rint(np.linalg.inv(reference.affine) @ affine[:, 2]).astype(int)[2]
        for k in range(theirs.shape[2]):
            np.testing.assert_array_equal(found[:, :, offset + step * k], theirs[:, :, k])
        assert found.sum() == theirs.sum()


@pytest.mark.parametrize(
    ("folder", "label", "file"),
    [
        ("ct-3slice", "liver.dcm", "liver_seg.nrrd"),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", "sparse_labelmap_ppv5_seg.nrrd"),
    ],
)
def test_a_real_segmentation_that_passed_the_door_agrees_with_its_truth(folder: str, label: str, file: str) -> None:
    door = Door(Pseudonyms(b"secret of a test, 32 bytes long."), LIVER)
    paths = sorted(TEST_DATA.joinpath("dicom", "seg", *folder.split("/")).iterdir())
    (reference,) = assembly.build_volumes([door.admit_object(pydicom.dcmread(path)).object for path in paths])
    found = segmentations.read_segmentation(door.admit_object(real(label)).object, reference, LIVER).voxels
    np.testing.assert_array_equal(found == 1, truth(file, reference) == 1)
    assert found.any()


def test_a_real_segmentation_of_another_image_is_refused() -> None:
    assert refused(real("liver.dcm"), image("24x38x3", "image"), LIVER) == Reason.OTHER_FRAME_OF_REFERENCE
