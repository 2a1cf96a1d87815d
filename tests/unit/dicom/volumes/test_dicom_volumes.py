"""One series of single-frame objects → one volume on its grid, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import highdicom
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from scipy.spatial.transform import Rotation
from series_rig import LPS_TO_RAS, slices, truth, world_agrees

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes import assembly, geometry

angles = st.floats(-180, 180, allow_nan=False)
millimetres = st.floats(0.3, 6.0)


def refused(objects: list[Dataset], **more: int) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(objects, **more)
    return told.value.reason


@settings(deadline=None)
@given(
    turned=st.tuples(angles, angles, angles),
    spacing=st.tuples(millimetres, millimetres, millimetres),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 6)),
    data=st.data(),
)
def test_any_orientation_spacing_and_order_of_files_gives_the_same_voxels_at_the_same_places(
    turned: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    shape: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    expected = truth(shape, Rotation.from_euler("xyz", turned, degrees=True).as_matrix(), spacing, origin)
    [volume] = assembly.build_volumes(data.draw(st.permutations(slices(expected))))
    world_agrees(volume.voxels, volume.affine, expected)
    assert volume.voxels.shape == shape
    assert volume.voxels.dtype == np.float32
    assert volume.voxels.flags.c_contiguous
    np.testing.assert_allclose(volume.affine, LPS_TO_RAS @ expected.affine, atol=1e-4)
    assert volume.frames == tuple((f"2.25.1000.{k + 1}", 1) for k in range(shape[2]))
    assert (volume.series, volume.frame_of_reference, volume.part) == ("2.25.1000", "2.25.2", "")


@settings(deadline=None, max_examples=20)
@given(turned=st.tuples(angles, angles, angles), spacing=st.tuples(millimetres, millimetres, millimetres))
def test_highdicom_builds_the_same_volume_where_it_builds_one(
    turned: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    expected = truth((4, 5, 3), Rotation.from_euler("zyx", turned, degrees=True).as_matrix(), spacing)
    objects = slices(expected, change=lambda obj, k: setattr(obj, "RescaleSlope", k + 1))
    theirs = highdicom.get_volume_from_series(objects)
    [ours] = assembly.build_volumes(objects)
    to_theirs = np.linalg.inv(LPS_TO_RAS @ theirs.affine) @ ours.affine
    index = to_theirs[:3, :3] @ np.indices(ours.voxels.shape).reshape(3, -1) + to_theirs[:3, 3:]
    assert np.abs(index - np.rint(index)).max() < 1e-3
    np.testing.assert_array_equal(ours.voxels.reshape(-1), theirs.array[tuple(np.rint(index).astype(int))])


def test_slices_stacked_against_their_normal_are_put_in_its_order() -> None:
    expected = truth(rotation=np.diag([1.0, 1.0, -1.0]))
    [volume] = assembly.build_volumes(slices(expected))
    world_agrees(volume.voxels, volume.affine, expected)
    assert np.linalg.det(volume.affine) > 0
    assert volume.frames[0] == ("2.25.1000.6", 1)


@pytest.mark.parametrize("gone", [(2,), (2, 3), (1, 4)])
def test_slices_missing_inside_are_refused(gone: tuple[int, ...]) -> None:
    objects = slices(truth((3, 3, 12)))
    assert refused([obj for k, obj in enumerate(objects) if k not in gone]) is Reason.MISSING_SLICES


def test_every_second_slice_missing_is_told_by_the_spacing_that_the_scanner_says() -> None:
    objects = slices(truth(), change=lambda obj, _: setattr(obj, "SpacingBetweenSlices", 2.5))
    assert len(assembly.build_volumes(objects)) == 1
    assert refused(objects[::2]) is Reason.MISSING_SLICES


@pytest.mark.parametrize(("acquisition", "reason"), [("3D", Reason.MISSING_SLICES), ("2D", None)])
def test_every_second_slice_missing_is_told_by_the_thickness_of_a_3d_acquisition(
    acquisition: str, reason: Reason | None
) -> None:
    objects = slices(truth(), change=lambda obj, _: setattr(obj, "MRAcquisitionType", acquisition))
    assert len(assembly.build_volumes(objects)) == 1
    if reason is None:
        assert len(assembly.build_volumes(objects[::2])) == 1  # slices of 2D acquisitions may leave gaps
    else:
        assert refused(objects[::2]) is reason


def test_a_scanner_that_writes_the_gap_as_spacing_between_slices_is_understood() -> None:
    def gap(obj: Dataset, _: int) -> None:
        obj.SliceThickness, obj.SpacingBetweenSlices = 2.0, 0.5

    assert len(assembly.build_volumes(slices(truth(), change=gap))) == 1


@pytest.mark.parametrize(
    ("gone", "announced", "said", "reason", "verified"),
    [
        (0, None, None, None, False),
        (0, 6, None, None, True),
        (0, None, 6, None, True),
        (2, None, None, None, False),
        (2, 6, None, Reason.INCOMPLETE_SERIES, None),
        (2, None, 6, Reason.INCOMPLETE_SERIES, None),
        (2, 4, 6, Reason.INCOMPLETE_SERIES, None),
        (3, 3, 6, None, False),  # the acquisition may have given two series: nobody knows
    ],
)
def test_slices_missing_at_the_end_show_where_somebody_counted(
    gone: int, announced: int | None, said: int | None, reason: Reason | None, verified: bool | None
) -> None:
    def count(obj: Dataset, _: int) -> None:
        if said is not None:
            obj.ImagesInAcquisition = said

    objects = slices(truth(), change=count)[gone:]
    if reason is None:
        [volume] = assembly.build_volumes(objects, announced=announced)
        assert volume.extent_verified is verified
    else:
        with pytest.raises(ObjectRefused) as told:
            assembly.build_volumes(objects, announced=announced)
        assert told.value.reason is reason


def moved(offset: Callable[[int], npt.ArrayLike]) -> Callable[[Dataset, int], None]:
    def change(obj: Dataset, k: int) -> None:
        position = np.asarray([float(v) for v in obj.ImagePositionPatient]) + offset(k)
        obj.ImagePositionPatient = [f"{v:.6f}" for v in position]

    return change


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (lambda k: (0, 0, 0.8 * (k == 3)), Reason.IRREGULAR_SPACING),
        (lambda k: (0, 0, 0.0225 * abs(k - 20)), Reason.IRREGULAR_SPACING),  # each step is within 2 %, their sum is not
        (lambda k: (0, 0.5 * k, 0), Reason.TILTED),
        (lambda k: (0, 4.0 * (k == 3), 0), Reason.IRREGULAR_SPACING),
        (lambda k: (0, 0, -2.5 * (k == 3)), Reason.DUPLICATE_SLICES),
    ],
)
def test_a_pile_that_is_no_right_angled_grid_is_refused(
    offset: Callable[[int], tuple[float, float, float]], reason: Reason
) -> None:
    expected = truth((4, 4, 40)) if reason is Reason.IRREGULAR_SPACING else truth()
    assert refused(slices(expected, change=moved(offset))) is reason


def test_a_grid_has_one_plane_at_a_place() -> None:
    plane = geometry.make_plane(4, 4, (0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 1), geometry.Tolerances())
    above = replace(plane, position=(0, 0, 2.0))
    with pytest.raises(ObjectRefused) as told:
        geometry.make_regular_grid([plane, above, plane], geometry.Tolerances())
    assert told.value.reason is Reason.DUPLICATE_SLICES
    assert geometry.make_regular_grid([above, plane], geometry.Tolerances()).order == (1, 0)


def test_positions_rounded_by_an_exporter_still_make_a_grid() -> None:
    rng = np.random.default_rng(1)
    rounded = moved(lambda k: rng.uniform(-0.005, 0.005, 3))
    assert len(assembly.build_volumes(slices(truth((4, 4, 40)), change=rounded))) == 1


def test_an_object_that_came_twice_counts_once() -> None:
    objects = slices(truth())
    [volume] = assembly.build_volumes([*objects, *slices(truth())], announced=6)
    assert volume.voxels.shape == (5, 4, 6)


def test_two_different_images_under_one_uid_are_refused() -> None:
    objects = slices(truth())
    assert refused([*objects, *slices(truth(seed=1))[2:3]]) is Reason.DUPLICATE_SLICES


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_slices_are_no_volume(count: int) -> None:
    assert refused(slices(truth())[:count]) is Reason.TOO_FEW_SLICES


def test_objects_of_two_series_are_refused() -> None:
    objects = slices(truth())
    objects[3].SeriesInstanceUID = "2.25.7"
    assert refused(objects) is Reason.MIXED_GEOMETRY


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", None),
        ("ImageOrientationPatient", None),
        ("PixelSpacing", None),
        ("PixelSpacing", ""),
        ("PixelSpacing", [0, 1]),
        ("PixelSpacing", [1, -1]),
        ("ImagePositionPatient", [1, 2]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0.5, 0]),
        ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_an_image_that_does_not_say_where_it_lies_is_refused(keyword: str, value: object) -> None:
    objects = slices(truth())
    if value is None:
        delattr(objects[2], keyword)
    else:
        setattr(objects[2], keyword, value)
    assert refused(objects) is Reason.MISSING_GEOMETRY


ELEMENTS = (
    ("ImageType", "CS"),
    ("SOPInstanceUID", "UI"),
    ("SpacingBetweenSlices", "DS"),
    ("SliceThickness", "DS"),
    ("EchoTime", "DS"),
    ("EchoNumbers", "IS"),
    ("TemporalPositionIdentifier", "IS"),
    ("NumberOfTemporalPositions", "IS"),
    ("ImagesInAcquisition", "IS"),
    ("AcquisitionNumber", "IS"),
    ("InstanceNumber", "IS"),
    ("ImagePositionPatient", "DS"),
    ("ImageOrientationPatient", "DS"),
    ("FrameOfReferenceUID", "UI"),
    ("SamplesPerPixel", "US"),
    ("PhotometricInterpretation", "CS"),
    ("NumberOfFrames", "IS"),
    ("Rows", "US"),
    ("Columns", "US"),
    ("PixelSpacing", "DS"),
    ("BitsAllocated", "US"),
    ("BitsStored", "US"),
    ("HighBit", "US"),
    ("PixelRepresentation", "US"),
    ("RescaleIntercept", "DS"),
    ("RescaleSlope", "DS"),
    ("StackID", "SH"),
    ("PerFrameFunctionalGroupsSequence", "SQ"),
    ("ModalityLUTSequence", "SQ"),
    ("PixelData", "OW"),
)
SNIPPETS = (
    b"",
    b"0 ",
    b"nan ",
    b"-1",
    b"1e400 ",
    b"abc\\",
    b"1\\2\\3",
    b"\xff\xff",
    b"\0\0\0\0",
    b"MOSAIC",
    b"\xfe\xff\0\xe0\4\0\0\0",
)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(
    spoiled=st.lists(
        st.tuples(st.sampled_from(ELEMENTS), st.sampled_from(SNIPPETS) | st.binary(max_size=12)), max_size=3
    ),
    everywhere=st.booleans(),
)
def test_whatever_an_object_holds_it_becomes_volumes_or_is_refused(
    spoiled: list[tuple[tuple[str, str], bytes]], everywhere: bool
) -> None:
    objects = slices(truth((2, 2, 3)))
    for (keyword, vr), value in spoiled:
        for obj in objects if everywhere else objects[1:2]:
            tag = Tag(keyword)
            obj[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    try:
        found = assembly.build_volumes(objects)
    except ObjectRefused:
        return
    assert sum(volume.voxels.shape[2] for volume in found) >= 2
    assert all(np.isfinite(volume.affine).all() for volume in found)
