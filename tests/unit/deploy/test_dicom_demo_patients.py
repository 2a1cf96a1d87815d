"""The demo's patients as DICOM: what is written says where each voxel lies, and its values within half a slope."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo.phantoms import dicom, identities, phantom
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.splits import SPLITS, order_of, split_of
from site_agent.dicom.door.pseudonyms import Pseudonyms

SHAPE, SPACING = (24, 22, 18), (7.0, 7.5, 7.25)
SECRET = bytes(range(32))
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def case() -> tuple[dict[str, np.ndarray], np.ndarray]:
    return phantom.make_case(site_index=1, patient=0, visit=0, seed=5, shape=SHAPE, spacing_mm=SPACING)


@pytest.fixture(scope="module")
def objects(case: tuple[dict[str, np.ndarray], np.ndarray]) -> list[Any]:
    """A study, written and read again."""
    examined = dicom.invent_examination(5, 1, 0, 0, "20000000", dicom.make_uid("a study"))
    written = [dicom.encode_dataset(one) for one in dicom.make_objects(*case, SPACING, examined)]
    return [pydicom.dcmread(io.BytesIO(content)) for content in written]


def slices(objects: list[Any], description: str) -> list[Any]:
    return [one for one in objects if one.get("SeriesDescription") == description]


def voxel_at(point: np.ndarray) -> tuple[int, ...]:
    """The phantom's voxel at a point in RAS mm: its volume's middle is the origin."""
    middle = (np.array(SHAPE) - 1) / 2
    return tuple(int(value) for value in np.rint(point / np.array(SPACING) + middle))


@pytest.mark.parametrize(("contrast", "description"), dicom._DESCRIPTIONS[1].items())
def test_each_pixel_lies_where_its_slice_says_and_differs_by_at_most_half_a_slope(
    case: tuple[dict[str, np.ndarray], np.ndarray], objects: list[Any], contrast: str, description: str
) -> None:
    found = slices(objects, description)
    assert len(found) == SHAPE[2] == found[0].ImagesInAcquisition
    seen = np.full(SHAPE, np.nan)
    for one in found:
        along, down = np.reshape(np.array(one.ImageOrientationPatient, float), (2, 3))
        between_rows, between_columns = one.PixelSpacing
        values = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        for row, column in np.ndindex(values.shape):
            # PS3.3, C.7.6.2.1.1, equation C.7.6.2.1-1; then LPS to RAS
            lps = np.array(one.ImagePositionPatient) + along * between_columns * column + down * between_rows * row
            seen[voxel_at(lps * (-1, -1, 1))] = values[row, column]
    half = float(found[0].RescaleSlope) / 2
    assert np.abs(seen - case[0][contrast]).max() <= half * (1 + 1e-9)
    assert ((seen == 0) == (case[0][contrast] == 0)).all()


def test_the_segmentation_says_the_same_voxels_by_code(
    case: tuple[dict[str, np.ndarray], np.ndarray], objects: list[Any]
) -> None:
    made = objects[-1]
    assert made.Modality == "SEG"
    by_number = {
        item.SegmentNumber: item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in made.SegmentSequence
    }
    assert list(by_number.values()) == ["6574001", "79654002", "C113842"]
    seen = np.zeros(SHAPE, np.uint8)
    for frame, groups in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        z = groups.PlanePositionSequence[0].ImagePositionPatient[2]
        k = voxel_at(np.array([0.0, 0.0, z]))[2]
        seen[:, :, k][frame.T[::-1, ::-1] == 1] = number
    assert np.array_equal(seen, case[1])
    drawn_on = {one.SOPInstanceUID for one in slices(objects, "Ax T1 +C")}
    (series,) = made.ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == drawn_on


def test_all_series_share_a_frame_of_reference_and_only_t1c_names_a_contrast_agent(objects: list[Any]) -> None:
    assert len({one.FrameOfReferenceUID for one in objects}) == 1
    assert {one.SeriesDescription for one in objects if one.get("ContrastBolusAgent")} == {"Ax T1 +C"}
    flair = slices(objects, "Ax T2 FLAIR")[0]
    assert flair.InversionTime > 2000
    assert slices(objects, "Ax T1")[0].RepetitionTime < 1000 < slices(objects, "Ax T2 FSE")[0].RepetitionTime


def test_every_object_has_a_uid_of_its_own_and_the_same_seed_writes_the_same_bytes(
    case: tuple[dict[str, np.ndarray], np.ndarray], objects: list[Any]
) -> None:
    assert len({one.SOPInstanceUID for one in objects}) == len(objects) == 4 * SHAPE[2] + 3 + 1
    examined = dicom.invent_examination(5, 1, 0, 0, "20000000", dicom.make_uid("a study"))
    again = [dicom.encode_dataset(one) for one in dicom.make_objects(*case, SPACING, examined)]
    assert again == [dicom.encode_dataset(one) for one in dicom.make_objects(*case, SPACING, examined)]


@given(st.integers(0, 32767), st.integers(0, 2**32 - 1))
def test_any_values_come_back_within_half_a_slope_of_twelve_bits(largest: int, seed: int) -> None:
    voxels = np.random.default_rng(seed).integers(0, largest + 1, (3, 4, 5)).astype(np.int16)
    stored, slope = dicom.scale_to_stored(voxels)
    assert stored.max() <= dicom.MOST_STORED
    assert np.abs(stored * slope - voxels).max() <= slope / 2 * (1 + 1e-9)
    assert float(str(dicom._decimal_string(slope))) == slope


@pytest.mark.parametrize("site_index", [0, 1, 2])
def test_each_patient_falls_into_the_split_of_its_nifti_folder_and_the_cases_keep_their_order(site_index: int) -> None:
    known = identities.invent_identities(site_index=site_index, cases=32, secret=SECRET, seed=1, fractions=SHARES)
    nifti = DatasetConfig(source="brats", path=".", labels={1: "any"}, patient_id=phantom.patient_id(site_index))
    names = Pseudonyms(SECRET)
    splits = [split_of(SECRET, names.pseudonym_of_patient(one.patient_id), 1, SHARES) for one in known]
    assert splits == [split_of(SECRET, nifti.patient_of(one.folder), 1, SHARES) for one in known]
    assert set(splits) == set(SPLITS)
    by_folder = sorted(known, key=lambda one: order_of(SECRET, one.folder, 1))
    by_case = sorted(known, key=lambda one: order_of(SECRET, identities.case_name(names, one.patient_id, one.study), 1))
    assert by_case == by_folder


def test_a_patient_who_comes_twice_keeps_the_patient_id_and_no_two_patients_share_one() -> None:
    known = identities.invent_identities(site_index=0, cases=32, secret=SECRET, seed=1, fractions=SHARES)
    assert len({one.patient for one in known}) == len({one.patient_id for one in known}) < len(known)
    assert len({(one.patient, one.patient_id) for one in known}) == len({one.patient for one in known})
    assert len({one.study for one in known}) == len(known)
