"""Enhanced multi-frame objects and Siemens mosaics → volumes."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ImplicitVRLittleEndian
from scipy.spatial.transform import Rotation
from series_rig import Truth, enhanced, identify, image, place, truth, world_agrees

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes import assembly, mosaic

angles = st.floats(-180, 180, allow_nan=False)


def refused(objects: list[Dataset], **more: int) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(objects, **more)
    return told.value.reason


def every(times: int, places: int) -> list[tuple[int, int]]:
    return [(t, k) for t in range(times) for k in range(places)]


@settings(deadline=None, max_examples=40)
@given(turned=st.tuples(angles, angles, angles), data=st.data())
def test_frames_in_any_order_become_one_volume_for_each_time(
    turned: tuple[float, float, float], data: st.DataObject
) -> None:
    rotation = Rotation.from_euler("xyz", turned, degrees=True).as_matrix()
    runs = [truth((3, 4, 5), rotation, seed=t) for t in range(2)]
    order = data.draw(st.permutations(every(2, 5)))
    found = assembly.build_volumes([enhanced(runs, order)])
    assert [volume.part for volume in found] == ["time 1", "time 2"]
    for t, (volume, expected) in enumerate(zip(found, runs, strict=True)):
        world_agrees(volume.voxels, volume.affine, expected)
        assert volume.extent_verified
        assert [order[number - 1] for _, number in volume.frames] == [(t, k) for k in range(5)]


def test_each_frame_has_its_own_scale_and_the_shared_one_where_it_has_none() -> None:
    obj = enhanced([truth()], every(1, 6))
    shared = Dataset()
    shared.RescaleSlope, shared.RescaleIntercept = 2, 1
    obj.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = Items([shared])
    own = Dataset()
    own.RescaleSlope, own.RescaleIntercept = 0.25, -5
    obj.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence = Items([own])
    [volume] = assembly.build_volumes([obj])
    expected = truth().voxels * 2.0 + 1
    expected[:, :, 2] = truth().voxels[:, :, 2] * 0.25 - 5
    np.testing.assert_array_equal(volume.voxels, expected)


def test_frames_at_one_place_that_only_a_dimension_tells_apart_become_a_volume_each() -> None:
    runs = [truth(seed=1), truth(seed=2)]
    obj = enhanced(runs, every(2, 6))
    obj.DimensionIndexSequence[0].DimensionIndexPointer = 0x00189217
    for groups in obj.PerFrameFunctionalGroupsSequence:
        del groups.FrameContentSequence[0].TemporalPositionIndex
    found = assembly.build_volumes([obj])
    assert [volume.part for volume in found] == ["dimension 1 1", "dimension 1 2"]
    for volume, expected in zip(found, runs, strict=True):
        world_agrees(volume.voxels, volume.affine, expected)
    for groups in obj.PerFrameFunctionalGroupsSequence:
        del groups.FrameContentSequence[0].DimensionIndexValues
    assert refused([obj]) is Reason.DUPLICATE_SLICES


def test_frames_that_two_dimensions_together_tell_apart_become_a_volume_each() -> None:
    runs = [truth(seed=n) for n in range(4)]
    obj = enhanced(runs, every(4, 6))
    obj.DimensionIndexSequence = Items([Dataset() for _ in range(3)])
    for item, pointer in zip(obj.DimensionIndexSequence, (0x00189217, 0x00189218, 0x00209057), strict=True):
        item.DimensionIndexPointer = pointer
    for (which, k), groups in zip(every(4, 6), obj.PerFrameFunctionalGroupsSequence, strict=True):
        content = groups.FrameContentSequence[0]
        del content.TemporalPositionIndex
        content.DimensionIndexValues = [which // 2 + 1, which % 2 + 1, k + 1]
    found = assembly.build_volumes([obj])
    assert [volume.part for volume in found] == [f"dimensions {n}" for n in (1, 2, 3, 4)]
    for volume, expected in zip(found, runs, strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def test_two_stacks_become_two_volumes() -> None:
    lower, upper = truth(seed=1), truth(seed=2, origin=(-80, -95, 60))
    obj = enhanced([lower, upper], every(2, 6))
    for groups in obj.PerFrameFunctionalGroupsSequence:
        content = groups.FrameContentSequence[0]
        content.StackID, content.TemporalPositionIndex = str(content.TemporalPositionIndex), 1
    found = assembly.build_volumes([obj])
    assert [volume.part for volume in found] == ["stack 1", "stack 2"]
    for volume, expected in zip(found, (lower, upper), strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def concatenation(parts: int) -> list[Dataset]:
    objects = []
    for n in range(parts):
        obj = enhanced([truth()], every(1, 6)[2 * n : 2 * n + 2], number=n + 1)
        obj.ConcatenationUID, obj.InConcatenationNumber, obj.InConcatenationTotalNumber = "2.25.3", n + 1, 3
        objects.append(obj)
    return objects


def test_the_parts_of_a_concatenation_become_one_volume_and_a_missing_one_is_noticed() -> None:
    [volume] = assembly.build_volumes(concatenation(3))
    world_agrees(volume.voxels, volume.affine, truth())
    assert volume.extent_verified
    assert refused(concatenation(2)) is Reason.INCOMPLETE_SERIES


def missing_frame(obj: Dataset) -> None:
    del obj.PerFrameFunctionalGroupsSequence[3]


def no_place(obj: Dataset) -> None:
    del obj.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def no_orientation(obj: Dataset) -> None:
    del obj.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def no_groups(obj: Dataset) -> None:
    del obj.PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize("spoil", [missing_frame, no_place, no_orientation, no_groups])
def test_frames_that_do_not_say_where_they_lie_are_refused(spoil: Callable[[Dataset], None]) -> None:
    obj = enhanced([truth()], every(1, 6))
    spoil(obj)
    assert refused([obj]) is Reason.MISSING_GEOMETRY


def test_an_enhanced_object_without_an_inner_slice_is_refused() -> None:
    frames = every(1, 6)
    del frames[3]
    assert refused([enhanced([truth()], frames)]) is Reason.MISSING_SLICES


def tiled(of: Truth, *, number: int = 1, descending: bool = False, layout: bool = True) -> Dataset:
    """A Siemens mosaic of a volume, as our door leaves it. Descending: the tiles follow against the image's normal."""
    columns, rows, count = of.voxels.shape
    side = int(np.ceil(np.sqrt(count)))
    pixels = np.zeros((side * rows, side * columns), dtype=np.int64)
    order = range(count)[::-1] if descending else range(count)
    for n, k in enumerate(order):
        down, across = divmod(n, side)
        pixels[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns] = of.voxels[:, :, k].T
    obj = image(pixels)
    identify(obj, number)
    place(obj, of.affine, order[0])
    half = [(side - 1) * columns / 2, (side - 1) * rows / 2]
    position = np.asarray([float(v) for v in obj.ImagePositionPatient]) - of.affine[:3, :2] @ half
    obj.ImagePositionPatient = [f"{v:.6f}" for v in position]
    obj.SpacingBetweenSlices = f"{of.spacing[2]:.6f}"
    obj.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    normal = of.affine[:3, 2] / of.spacing[2] * (-1 if descending else 1)
    if layout:
        mosaic.keep_layout(obj, mosaic.MosaicLayout(count, tuple(float(v) for v in normal)))
    return obj


@settings(deadline=None)
@given(turned=st.tuples(angles, angles, angles), count=st.integers(2, 10), descending=st.booleans())
def test_a_mosaics_tiles_become_the_slices_of_a_volume(
    turned: tuple[float, float, float], count: int, descending: bool
) -> None:
    expected = truth((3, 4, count), Rotation.from_euler("xyz", turned, degrees=True).as_matrix())
    [volume] = assembly.build_volumes([tiled(expected, descending=descending)])
    world_agrees(volume.voxels, volume.affine, expected)
    assert volume.extent_verified
    numbers = [number for _, number in volume.frames]
    assert numbers == sorted(numbers, reverse=descending)


def test_mosaics_follow_each_other_in_time() -> None:
    runs = [truth(seed=t) for t in range(3)]
    found = assembly.build_volumes([tiled(run, number=3 - t) for t, run in enumerate(runs)])
    assert [volume.part for volume in found] == ["time 1", "time 2", "time 3"]
    for volume, expected in zip(found, reversed(runs), strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def test_the_note_of_a_mosaics_layout_survives_a_file_even_without_value_representations() -> None:
    obj = tiled(truth())
    expected = mosaic.read_layout(obj)
    obj.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    written = BytesIO()
    obj.save_as(written, enforce_file_format=True)
    written.seek(0)
    assert mosaic.read_layout(pydicom.dcmread(written)) == expected
    assert expected is not None
    assert (expected.images, expected.side) == (6, 3)


def test_an_object_that_is_no_mosaic_has_no_layout() -> None:
    assert mosaic.read_layout(enhanced([truth()], every(1, 6))) is None


def garbled_header(obj: Dataset) -> None:
    block = obj.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"SV10\4\3\2\1" + b"\5\0\0\0M\0\0\0" + b"x" * 100)


@pytest.mark.parametrize("spoil", [lambda _: None, garbled_header])
def test_a_mosaic_that_does_not_say_how_it_is_laid_out_is_refused(spoil: Callable[[Dataset], None]) -> None:
    obj = tiled(truth(), layout=False)
    spoil(obj)
    assert refused([obj]) is Reason.UNSUPPORTED_IMAGE


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SpacingBetweenSlices", ""),
        ("SpacingBetweenSlices", "0"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, 1]),
    ],
)
def test_a_mosaic_whose_tiles_do_not_fit_its_geometry_is_refused(keyword: str, value: object) -> None:
    obj = tiled(truth())
    setattr(obj, keyword, value)
    assert refused([obj]) is Reason.MISSING_GEOMETRY


def test_a_mosaic_of_a_size_that_its_tiles_do_not_divide_is_refused() -> None:
    obj = tiled(truth())
    mosaic.keep_layout(obj, mosaic.MosaicLayout(17, (0.0, 0.0, 1.0)))
    assert refused([obj]) is Reason.MISSING_GEOMETRY
