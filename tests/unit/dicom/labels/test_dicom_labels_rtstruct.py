"""RTSTRUCT onto an image's grid: filled by the even-odd rule, holes, and references that must hold."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_labels_rig import (
    CODES,
    ORDERED,
    RULES,
    SERIES,
    SHAPE,
    code,
    contour,
    item,
    roi,
    rotation,
    structures,
    volume,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from places import TEST_DATA
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import LabelRule, Labels
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object
from site_agent.dicom.labels import structures as reader
from site_agent.dicom.labels.concepts import outline_of
from site_agent.dicom.reading import read_object
from site_agent.dicom.volumes import assembly

OEDEMA, TUMOUR = 1, 2
needs_data = pytest.mark.skipif(not (TEST_DATA / "dicom").is_dir(), reason="needs the shared test data (shared/data)")


def square(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (high, low), (high, high), (low, high)]


def drawn(*contours: Dataset, on: Volume | None = None, rules: Labels = RULES, **more: Any) -> np.ndarray[Any, Any]:
    reference = on or volume()
    return reader.read_structure_set(
        structures([roi()], {1: contours}, named=reference, **more), reference, rules
    ).voxels


def refused(obj: Dataset, reference: Volume, rules: Labels = RULES, drawn_on: Sequence[Volume] = ()) -> Reason:
    with pytest.raises(ObjectRefused) as error:
        reader.read_structure_set(obj, reference, rules, drawn_on)
    return error.value.reason


@pytest.mark.parametrize("turned", [rotation(), rotation(17, 0), rotation(90, 1) @ rotation(5, 2)])
def test_a_square_fills_the_voxels_whose_centres_it_holds_on_its_own_slice(turned: np.ndarray[Any, Any]) -> None:
    reference = volume(turned=turned)
    found = drawn(contour(reference, 2, square(1.4, 4.4)), on=reference)
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:5, 2:5, 2] = TUMOUR
    np.testing.assert_array_equal(found, expected)


def test_a_contour_through_voxel_centres_holds_those_on_its_path() -> None:
    reference = volume()
    found = drawn(contour(reference, 2, square(1, 4)), on=reference)
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:5, 1:5, 2] = TUMOUR
    np.testing.assert_array_equal(found, expected)


def test_a_contour_that_runs_beyond_the_image_is_cut_at_its_rim() -> None:
    reference = volume()
    found = drawn(contour(reference, 0, square(-9, 30)), on=reference)
    assert (found[:, :, 0] == TUMOUR).all()
    assert not found[:, :, 1:].any()


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_within_another_cuts_a_hole_and_one_within_the_hole_fills_again(kind: str) -> None:
    reference = volume((12, 12, 3))
    contours = [
        contour(reference, 1, square(low, high), kind=kind) for low, high in ((2.5, 8.5), (0.5, 10.5), (4.5, 6.5))
    ]
    expected = np.zeros((12, 12), bool)
    expected[1:11, 1:11] = True
    expected[3:9, 3:9] = False
    expected[5:7, 5:7] = True
    np.testing.assert_array_equal(drawn(*contours, on=reference)[:, :, 1] > 0, expected)


def test_a_keyhole_leaves_its_hole_empty() -> None:
    reference = volume((12, 12, 3))
    outer = [(0.5, 0.5), (10.5, 0.5), (10.5, 10.5), (0.5, 10.5), (0.5, 0.5)]
    inner = [(3.5, 3.5), (3.5, 7.5), (7.5, 7.5), (7.5, 3.5), (3.5, 3.5)]
    expected = np.zeros((12, 12), bool)
    expected[1:11, 1:11] = True
    expected[4:8, 4:8] = False
    np.testing.assert_array_equal(drawn(contour(reference, 1, outer + inner), on=reference)[:, :, 1] > 0, expected)


def test_contours_that_overlap_add_up_and_one_that_comes_twice_counts_once() -> None:
    reference = volume((12, 12, 3))
    contours = [contour(reference, 1, square(*ends)) for ends in ((0.5, 5.5), (3.5, 9.5), (0.5, 5.5))]
    expected = np.zeros((12, 12), bool)
    expected[1:6, 1:6] = expected[4:10, 4:10] = True
    np.testing.assert_array_equal(drawn(*contours, on=reference)[:, :, 1] > 0, expected)


def test_contours_to_be_combined_by_xor_leave_out_what_two_of_them_hold() -> None:
    reference = volume((12, 12, 3))
    contours = [contour(reference, 1, square(*ends), kind="CLOSEDPLANAR_XOR") for ends in ((0.5, 5.5), (3.5, 9.5))]
    expected = np.zeros((12, 12), bool)
    expected[1:6, 1:6] ^= True
    expected[4:10, 4:10] ^= True
    np.testing.assert_array_equal(drawn(*contours, on=reference)[:, :, 1] > 0, expected)


# Many corners lie on a row of voxels: each must be crossed once.
corners = st.tuples(st.integers(-40, 240).map(lambda n: n / 20 + 0.0137), st.integers(-4, 24).map(lambda n: n / 2))


@settings(deadline=None)
@given(st.lists(corners, min_size=3, max_size=9))
def test_any_polygon_is_filled_as_counting_crossings_does(points: list[tuple[float, float]]) -> None:
    filled, path = reader.fill_polygon(np.array(points), (10, 9))
    for i, j in np.argwhere(~path):  # on the path, either answer is right: it belongs to the structure anyway
        assert filled[i, j] == (crossings(points, i, j) % 2 == 1)


def crossings(points: list[tuple[float, float]], i: int, j: int) -> int:
    """Edges that a ray from (i, j) to the left crosses, counted one by one."""
    count = 0
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if (y0 <= j) != (y1 <= j):
            count += x0 + (j - y0) * (x1 - x0) / (y1 - y0) < i
    return count


@settings(deadline=None)
@given(st.floats(0, 3), st.floats(2.2, 4.8), st.integers(5, 40))
def test_a_round_polygon_is_filled_as_matplotlib_does(turn: float, radius: float, count: int) -> None:
    angles = turn + np.linspace(0, 2 * np.pi, count, endpoint=False)
    points = np.column_stack((5.013 + radius * np.cos(angles), 4.989 + radius * np.sin(angles)))
    filled, path = reader.fill_polygon(points, (10, 10))
    at = np.array([(i, j) for i in range(10) for j in range(10)])
    inside = Polygon(points).contains_points(at).reshape(10, 10)
    near = Polygon(points).contains_points(at, radius=0.01).reshape(10, 10) != Polygon(points).contains_points(
        at, radius=-0.01
    ).reshape(10, 10)
    np.testing.assert_array_equal(filled[~near], inside[~near])
    assert not path[~near].any()


def test_a_structure_is_known_by_its_code_and_by_its_name_only_without_one() -> None:
    reference = volume()
    rois, contours = [roi(1, "anything"), roi(2, "tumour")], {n: [contour(reference, 1, square(n, n))] for n in (1, 2)}
    observed = [
        item(ReferencedROINumber=1, RTROIIdentificationCodeSequence=[code(CODES["oedema"])]),
        item(ReferencedROINumber=2, RTROIIdentificationCodeSequence=[code("SCT:12345")]),
    ]
    obj = structures(rois, contours, named=reference, RTROIObservationsSequence=observed)
    found = reader.read_structure_set(obj, reference, RULES).voxels
    assert found[1, 1, 1] == OEDEMA
    assert found[2, 2, 1] == 0  # its code says something else, whatever its name is
    del observed[1].RTROIIdentificationCodeSequence
    assert reader.read_structure_set(obj, reference, RULES).voxels[2, 2, 1] == TUMOUR


@pytest.mark.parametrize(
    ("scheme", "value", "by_name"),
    [
        ("99VMS_STRUCTCODE", "GTVp", True), ("99RAYSTATION", "4711", True), ("L", "lung", True),
        ("99KONSIL", "withheld private", True), ("99KONSIL", "withheld", False), ("FMA", "7197", False),
    ],
)  # fmt: skip
def test_a_private_code_hides_no_name_and_a_public_one_does(scheme: str, value: str, by_name: bool) -> None:
    reference = volume()
    kind = [item(CodingSchemeDesignator=scheme, CodeValue=value)]
    observed = [item(ReferencedROINumber=1, RTROIIdentificationCodeSequence=kind)]
    contours = {1: [contour(reference, 1, square(1, 1))]}
    obj = structures([roi(1, "tumour")], contours, named=reference, RTROIObservationsSequence=observed)
    if by_name:
        assert reader.read_structure_set(obj, reference, RULES).voxels[1, 1, 1] == TUMOUR
        return
    with pytest.raises(ObjectRefused, match="1 have such a name, and a code beside it") as told:
        reader.read_structure_set(obj, reference, RULES)
    assert told.value.reason is Reason.UNMATCHED_LABEL


def test_a_contour_with_fewer_points_than_it_says_is_refused() -> None:
    reference = volume()
    short = contour(reference, 1, square(1, 2))
    short.NumberOfContourPoints = 5
    assert refused(structures([roi(1, "tumour")], {1: [short]}, named=reference), reference) is Reason.UNREADABLE


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_contour_too_long_for_its_vr_comes_through_the_door_and_the_spool(syntax: str, nested: bool) -> None:
    reference = volume()
    few = contour(reference, 1, square(1, 3))
    corners = np.array([float(v) for v in few.ContourData]).reshape(-1, 3)
    share = np.linspace(0, 1, 900, endpoint=False)[:, None]
    many = np.concatenate([a + (b - a) * share for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    few.NumberOfContourPoints, few.ContourData = len(many), [f"{value:.6f}" for value in many.ravel()]
    obj = identified(structures([roi(1, "tumour")], {1: [few]}, named=reference))
    obj.file_meta.TransferSyntaxUID = syntax
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom tells that it writes the VR as UN
        obj.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    assert (b"\x06\x30\x50\x00UN" in content) == (syntax.endswith(".1"))
    if nested:  # the sequence around it as UN, in implicit VR (PS3.5, 6.2.2)
        whole = dcmread(BytesIO(content))
        inner = BytesIO()
        plain = Dataset()
        plain.ROIContourSequence = obj.ROIContourSequence
        plain.save_as(inner, implicit_vr=True, little_endian=True)
        whole.add_new("ROIContourSequence", "UN", inner.getvalue()[8:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer = BytesIO()
            whole.save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
    door = Door(Pseudonyms(bytes(range(32))), RULES)
    clean = dcmread(BytesIO(encode_object(door.admit_object(read_object(content)).object)))
    found = clean.ROIContourSequence[0].ContourSequence[0]
    assert [f"{value:.6f}" for value in np.array(found.ContourData, float)] == list(few.ContourData)


def identified(obj: Dataset) -> Dataset:
    """With what every object has."""
    obj.file_meta = FileMetaDataset()
    obj.file_meta.MediaStorageSOPClassUID = obj.SOPClassUID
    obj.file_meta.MediaStorageSOPInstanceUID = obj.SOPInstanceUID = "1.2.3.4"
    obj.StudyInstanceUID, obj.SeriesInstanceUID, obj.Modality, obj.PatientID = "1.2.3.5", "1.2.3.6", "RTSTRUCT", "P1"
    return obj


def test_a_name_must_be_exact() -> None:
    reference = volume()
    obj = structures([roi(name="Tumour ")], {1: [contour(reference, 1, square(1, 3))]}, named=reference)
    obj.StructureSetROISequence[0].ROIName = "tumour left"
    assert refused(obj, reference) == Reason.UNMATCHED_LABEL


def test_two_concepts_on_one_voxel_are_refused_unless_an_order_is_given() -> None:
    reference = volume()
    contours = {1: [contour(reference, 1, square(1, 3))], 2: [contour(reference, 1, square(2, 4))]}
    obj = structures([roi(1, "tumour"), roi(2, "oedema")], contours, named=reference)
    assert refused(obj, reference) == Reason.OVERLAPPING_LABELS
    assert reader.read_structure_set(obj, reference, ORDERED).voxels[2, 2, 1] == TUMOUR


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_points_and_open_contours_have_no_inside(kind: str) -> None:
    reference = volume()
    obj = structures([roi()], {1: [contour(reference, 1, square(1, 3), kind=kind)]}, named=reference)
    assert refused(obj, reference) == Reason.UNSUPPORTED_IMAGE


@pytest.mark.parametrize("k", [0.5, 1.3, -1, 5])
def test_a_contour_between_or_beyond_the_slices_is_refused(k: float) -> None:
    reference = volume()
    obj = structures([roi()], {1: [contour(reference, k, square(1, 3))]}, named=reference)
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS


def test_a_contour_across_the_slices_is_refused() -> None:
    reference = volume()
    across = contour(volume(turned=rotation(30, 0)), 1, square(1, 3))
    assert refused(structures([roi()], {1: [across]}, named=reference), reference) == Reason.LABEL_REFERENCES_OTHERS


def test_a_contour_that_does_not_lie_on_the_image_it_names_is_refused() -> None:
    reference = volume()
    names = contour(reference, 1, square(1, 3), image=f"{SERIES}.1")
    assert (drawn(names, on=reference) > 0).sum() == 9
    names = contour(reference, 1, square(1, 3), image=f"{SERIES}.2")
    assert refused(structures([roi()], {1: [names]}, named=reference), reference) == Reason.LABEL_REFERENCES_OTHERS


def test_contours_on_every_second_slice_only_are_refused() -> None:
    reference = volume()
    contours = [contour(reference, k, square(1, 3)) for k in (0, 2, 4)]
    assert refused(structures([roi()], {1: contours}, named=reference), reference) == Reason.MISSING_SLICES
    beside = [contour(reference, k, square(1, 3)) for k in (0, 1, 3, 4)]
    assert (drawn(*beside, on=reference) > 0).sum() == 4 * 9


def test_a_structure_set_that_names_images_which_are_not_there_is_refused() -> None:
    reference = volume()
    obj = structures([roi()], {1: [contour(reference, 1, square(1, 3))]}, named=volume((7, 6, 6)))
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS
    other = structures([roi()], {1: [contour(reference, 1, square(1, 3))]}, named=volume(series="1.9"))
    assert refused(other, reference) == Reason.LABEL_REFERENCES_OTHERS


def test_another_frame_of_reference_is_refused_unless_every_contour_names_its_image() -> None:
    reference = volume()
    without = structures([roi(frame="1.9")], {1: [contour(reference, 1, square(1, 3))]}, named=reference)
    assert refused(without, reference) == Reason.OTHER_FRAME_OF_REFERENCE
    names = [contour(reference, 1, square(1, 3), image=f"{SERIES}.1")]
    obj = structures([roi(frame="1.9")], {1: names}, named=reference)
    assert (reader.read_structure_set(obj, reference, RULES).voxels > 0).sum() == 9


def test_a_structure_set_drawn_on_another_volume_of_the_study_comes_onto_the_references_grid() -> None:
    reference = volume()
    finer = volume((14, 12, 10), spacing=(0.75, 1.0, 1.5), origin=(-20.375, 9.5, 4.25), series="1.9")
    contours = [contour(finer, k, square(1.5, 5.5)) for k in (2, 3)]  # both halves of slice 1, voxels 1 and 2
    obj = structures([roi()], {1: contours}, named=finer)
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:3, 1:3, 1] = TUMOUR
    np.testing.assert_array_equal(
        reader.read_structure_set(obj, reference, RULES, [outline_of(finer)]).voxels, expected
    )
    elsewhere = replace(finer, frame_of_reference="1.8")
    assert refused(obj, reference, RULES, [elsewhere]) == Reason.OTHER_FRAME_OF_REFERENCE
    obj.StructureSetROISequence = [roi(frame="1.8")]
    assert refused(obj, reference, RULES, [elsewhere]) == Reason.OTHER_FRAME_OF_REFERENCE


def test_a_damaged_structure_set_is_refused_and_never_an_error_of_ours() -> None:
    reference = volume()
    obj = structures([roi()], {1: [contour(reference, 1, square(1, 3))]}, named=reference)
    obj.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    assert refused(obj, reference) == Reason.UNREADABLE
    del obj.ROIContourSequence[0].ContourSequence[0].ContourData
    assert refused(obj, reference) == Reason.UNREADABLE
    del obj.ROIContourSequence[0].ReferencedROINumber
    assert refused(obj, reference) == Reason.UNREADABLE


def real(name: str) -> Dataset:
    return pydicom.dcmread(TEST_DATA / "dicom" / "rtstruct" / name)


@needs_data
def test_a_real_structure_set_is_filled_on_its_image() -> None:
    (image,) = assembly.build_volumes([real("ct_1.dcm"), real("ct_2.dcm")])
    rules = Labels(source="rtstruct", concepts={"target": LabelRule(names=("ROI-1",))})
    found = reader.read_structure_set(real("rt.dcm"), image, rules).voxels
    # A square from -51 to -27 mm; within it a second contour, a square from -47 to -32 mm without one corner: a hole.
    at = -125 + 0.488281 * np.arange(512)
    x, y = at[:, None], at[None, :]
    outer = (x >= -51) & (x <= -27) & (y >= -51) & (y <= -27)
    inner = (x > -47) & (x < -32) & (y > -47) & (y < -32) & (x + y > -93)
    np.testing.assert_array_equal(found[:, :, 0] == 1, outer & ~inner)
    assert not found[:, :, 1].any()


@needs_data
def test_a_real_structure_set_that_passed_the_door_is_filled_alike() -> None:
    rules = Labels(source="rtstruct", concepts={"target": LabelRule(names=("ROI-1",))})
    door = Door(Pseudonyms(b"secret of a test, 32 bytes long."), rules)
    (image,) = assembly.build_volumes([real("ct_1.dcm"), real("ct_2.dcm")])
    (clean,) = assembly.build_volumes([door.admit_object(real(name)).object for name in ("ct_1.dcm", "ct_2.dcm")])
    assert clean.series != image.series
    np.testing.assert_array_equal(
        reader.read_structure_set(door.admit_object(real("rt.dcm")).object, clean, rules).voxels,
        reader.read_structure_set(real("rt.dcm"), image, rules).voxels,
    )


@needs_data
@pytest.mark.parametrize("name", ["invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"])
def test_a_real_structure_set_that_refers_to_images_which_do_not_exist_is_refused(name: str) -> None:
    (image,) = assembly.build_volumes([real("ct_1.dcm"), real("ct_2.dcm")])
    rules = Labels(source="rtstruct", concepts={"target": LabelRule(names=("ROI-1",))})
    assert refused(real(name), image, rules) == Reason.LABEL_REFERENCES_OTHERS
