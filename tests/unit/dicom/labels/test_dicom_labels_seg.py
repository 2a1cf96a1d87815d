"""DICOM SEG, as this file makes them, onto an image's grid; real ones: `test_dicom_labels_seg_real`."""

from __future__ import annotations

from typing import Any

import highdicom
import numpy as np
import pytest
from dicom_labels_rig import (
    CODES,
    ORDERED,
    RULES,
    SERIES,
    SHAPE,
    SPACING,
    item,
    refused,
    rotation,
    segmentation,
    slices,
    volume,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.sr.coding import Code

from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.reasons import Reason
from site_agent.dicom.base import Volume
from site_agent.dicom.config import LabelRule, Labels
from site_agent.dicom.labels import segmentations
from site_agent.dicom.labels.concepts import outline_of

OEDEMA, TUMOUR = 1, 2
FRAME_SHAPE = (SHAPE[1], SHAPE[0])
BOTH = {1: CODES["tumour"], 2: CODES["oedema"]}


def block(rows: slice, columns: slice) -> np.ndarray[Any, Any]:
    pixels = np.zeros(FRAME_SHAPE, np.uint8)
    pixels[rows, columns] = 1
    return pixels


FRAMES = [
    (1, 1, block(slice(1, 3), slice(2, 6))),
    (2, 1, block(slice(3, 5), slice(2, 6))),
    (2, 3, block(slice(0, 1), slice(0, 7))),
]


def expected() -> np.ndarray[Any, Any]:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:6, 1:3, 1] = TUMOUR
    voxels[2:6, 3:5, 1] = OEDEMA
    voxels[:, 0, 3] = OEDEMA
    return voxels


@pytest.mark.parametrize("turned", [rotation(), rotation(31, 2) @ rotation(-8, 0)])
def test_sparse_frames_come_onto_their_slices_whatever_their_order(turned: np.ndarray[Any, Any]) -> None:
    reference = volume(turned=turned)
    for frames in (FRAMES, FRAMES[::-1]):
        found = segmentations.read_segmentation(segmentation(frames, BOTH, reference), reference, RULES)
        assert found.concepts == ("oedema", "tumour")
        np.testing.assert_array_equal(found.voxels, expected())


def test_a_segmentation_without_named_images_counts_by_its_frame_of_reference() -> None:
    reference = volume()
    found = segmentations.read_segmentation(segmentation(FRAMES, BOTH, reference, named=[]), reference, RULES)
    np.testing.assert_array_equal(found.voxels, expected())


def test_fractional_segments_count_from_one_half_of_their_maximum_on() -> None:
    reference = volume()
    pixels = np.arange(42, dtype=np.uint8).reshape(FRAME_SHAPE)
    obj = segmentation([(1, 2, pixels)], {1: CODES["tumour"]}, reference, kind="FRACTIONAL", maximum=40)
    found = segmentations.read_segmentation(obj, reference, RULES).voxels
    np.testing.assert_array_equal(found[:, :, 2].T > 0, pixels >= 20)
    assert not found[:, :, [0, 1, 3, 4]].any()


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_a_label_maps_values_are_segment_numbers_and_its_padding_is_background(padding: int | None) -> None:
    reference = volume()
    pixels = np.zeros(FRAME_SHAPE, np.uint8)
    pixels[1:3, 2:6], pixels[3:5, 2:6], pixels[0, 0], pixels[0, 1] = 1, 2, 5, 7
    codes = {0: "DCM:125040", **BOTH, 5: CODES["tumour"]} if padding == 5 else {0: "DCM:125040", **BOTH}
    obj = segmentation([(0, 1, pixels)], codes, reference, kind="LABELMAP", padding=padding)
    found = segmentations.read_segmentation(obj, reference, RULES).voxels
    wanted = expected()
    wanted[:, :, 3] = 0
    np.testing.assert_array_equal(found, wanted)


def test_overlapping_segments_are_refused_unless_an_order_is_given() -> None:
    reference = volume()
    frames = [(1, 1, block(slice(1, 4), slice(1, 4))), (2, 1, block(slice(2, 5), slice(2, 5)))]
    obj = segmentation(frames, BOTH, reference)
    assert refused(obj, reference) == Reason.OVERLAPPING_LABELS
    assert segmentations.read_segmentation(obj, reference, ORDERED).voxels[2, 2, 1] == TUMOUR
    turned = ORDERED.model_copy(update={"order": ("tumour", "oedema")})
    assert segmentations.read_segmentation(obj, reference, turned).voxels[2, 2, 1] == OEDEMA
    half = ORDERED.model_copy(update={"order": ("tumour",)})
    assert refused(obj, reference, half) == Reason.OVERLAPPING_LABELS


def test_segments_of_one_concept_may_overlap_and_add_up() -> None:
    reference = volume()
    frames = [(1, 1, block(slice(1, 3), slice(1, 4))), (2, 1, block(slice(2, 5), slice(2, 5)))]
    obj = segmentation(frames, {1: CODES["tumour"], 2: CODES["tumour"]}, reference)
    found = segmentations.read_segmentation(obj, reference, RULES).voxels
    np.testing.assert_array_equal(found[:, :, 1].T == TUMOUR, (frames[0][2] | frames[1][2]) > 0)


@pytest.mark.parametrize("said", ["UNDEFINED", "NO", "YES", None])
def test_overlap_is_found_in_the_frames_whatever_segments_overlap_says(said: str | None) -> None:
    reference, own = volume(), volume((7, 6, 5), spacing=(1.5, 2.0, 3.0), origin=(-19.4, 10.0, 5.0), series="1.9")
    frames = [(1, 1, block(slice(1, 4), slice(1, 4))), (2, 1, block(slice(2, 5), slice(2, 5)))]
    for grid, drawn_on in ((reference, []), (own, [outline_of(own)])):
        obj = segmentation(frames, BOTH, grid, series=grid.series, between=3.0)
        if said is not None:
            obj.SegmentsOverlap = said
        assert refused(obj, reference, RULES, drawn_on) == Reason.OVERLAPPING_LABELS
        assert segmentations.read_segmentation(obj, reference, ORDERED, drawn_on).voxels[2, 2, 1] == TUMOUR


NUMBERED = {3: CODES["tumour"], 7: CODES["oedema"]}


@pytest.mark.parametrize("between", [None, 1.5])
def test_segments_may_be_numbered_with_gaps(between: float | None) -> None:
    """Only label maps may (PS3.3, table C.8.20-4), but nothing is ambiguous about it."""
    reference, wide = volume(), expected().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    if between is None:
        obj = segmentation([({1: 3, 2: 7}[n], k, pixels) for n, k, pixels in FRAMES], NUMBERED, reference)
        np.testing.assert_array_equal(segmentations.read_segmentation(obj, reference, RULES).voxels, expected())
        return
    own = finer()
    frames = [(n, k, value == wide[:, :, k].T) for n, value in ((3, TUMOUR), (7, OEDEMA)) for k in (2, 3, 6, 7)]
    obj = segmentation(frames, NUMBERED, own, between=between, series="1.9")
    np.testing.assert_array_equal(
        segmentations.read_segmentation(obj, reference, RULES, [outline_of(own)]).voxels, expected()
    )


def test_a_label_map_of_16_bits_holds_numbers_beyond_255() -> None:
    reference = volume()
    pixels = np.zeros(FRAME_SHAPE, "<u2")
    pixels[1:3, 2:6], pixels[3:5, 2:6], pixels[0, 0] = 3, 700, 188  # 700 and 444 differ by 256
    obj = segmentation([(0, 1, pixels)], {3: CODES["tumour"], 700: CODES["oedema"]}, reference, kind="LABELMAP")
    obj.BitsAllocated, obj.BitsStored, obj.HighBit, obj.PixelData = 16, 16, 15, pixels.tobytes()
    wanted = expected()
    wanted[:, :, 3] = 0
    np.testing.assert_array_equal(segmentations.read_segmentation(obj, reference, RULES).voxels, wanted)


def test_two_segments_of_one_number_cannot_be_told_apart() -> None:
    reference = volume()
    obj = segmentation(FRAMES, BOTH, reference)
    obj.SegmentSequence[1].SegmentNumber = 1
    assert refused(obj, reference) == Reason.UNREADABLE
    obj.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"  # of no concept
    assert refused(obj, reference) == Reason.UNREADABLE


@pytest.mark.parametrize("between", [None, 1.5])
def test_an_empty_segment_says_that_there_is_none(between: float | None) -> None:
    reference, own = volume(), volume() if between is None else finer()
    pixels = np.zeros((own.voxels.shape[1], own.voxels.shape[0]), np.uint8)
    pixels[2:4, 2:4] = 1
    for frames in ([(1, 2, pixels), (1, 3, pixels)], [(1, 2, pixels), (1, 3, pixels), (2, 2, pixels * 0)]):
        obj = segmentation(frames, BOTH, own, between=between, series=own.series)
        found = segmentations.read_segmentation(obj, reference, RULES, [outline_of(own)])
        assert set(np.unique(found.voxels)) == {0, TUMOUR}
        assert found.described == {"tumour", "oedema"}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_that_highdicom_writes_of_nothing_at_all_is_an_empty_label(kind: str) -> None:
    reference, drawn_on = volume(), slices(volume())
    for obj in drawn_on:
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
                        "StudyDate", "StudyTime", "ReferringPhysicianName"):  # fmt: skip
            setattr(obj, keyword, "")
    empty = highdicom.seg.Segmentation(
        source_images=drawn_on,
        pixel_array=np.zeros((SHAPE[2], SHAPE[1], SHAPE[0]), np.uint8),
        segmentation_type=kind,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                number, name, Code("49755003", "SCT", "x"), Code(text.partition(":")[2], "SCT", name), "MANUAL"
            )
            for number, (name, text) in enumerate(CODES.items(), start=1)
        ],
        series_instance_uid="1.2.9.3", series_number=1, sop_instance_uid="1.2.9.1", instance_number=1,
        manufacturer="x", manufacturer_model_name="x", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    found = segmentations.read_segmentation(empty, reference, RULES)
    assert not found.voxels.any()
    assert found.described == {"tumour", "oedema"}


def test_a_segment_is_known_by_its_code_and_never_by_its_label() -> None:
    reference = volume()
    obj = segmentation(FRAMES, {1: "SCT:1", 2: "SCT:2"}, reference)
    for segment in obj.SegmentSequence:
        segment.SegmentLabel = "tumour"
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "tumour"
    assert refused(obj, reference) == Reason.UNMATCHED_LABEL


def test_a_retired_snomed_code_is_the_snomed_ct_code_that_replaced_it() -> None:
    reference = volume()
    liver = Labels(concepts={"liver": LabelRule(codes=("SCT:10200004",))})
    obj = segmentation([(1, 0, block(slice(0, 2), slice(0, 2)))], {1: "SRT:T-62000"}, reference)
    assert (segmentations.read_segmentation(obj, reference, liver).voxels > 0).sum() == 4
    old = Labels(concepts={"liver": LabelRule(codes=("SRT:T-62000",))})
    obj = segmentation([(1, 0, block(slice(0, 2), slice(0, 2)))], {1: "SCT:10200004"}, reference)
    assert (segmentations.read_segmentation(obj, reference, old).voxels > 0).sum() == 4


def test_a_segment_whose_code_stands_for_two_concepts_is_refused() -> None:
    reference = volume()
    twice = Labels(concepts={"a": LabelRule(codes=("SCT:10200004",)), "b": LabelRule(codes=("SRT:T-62000",))})
    obj = segmentation(FRAMES, {1: "SRT:T-62000", 2: "SCT:1"}, reference)
    assert refused(obj, reference, twice) == Reason.UNMATCHED_LABEL


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            {"concepts": {"a": {"codes": ["SCT:1"]}, "b": {"codes": ["SCT:2", "SCT:1"]}}},
            "SCT:1 stands for both a and b",
        ),
        ({"concepts": {"a": {"names": ["GTV"]}, "b": {"names": ["GTV"]}}}, "GTV stands for both a and b"),
        ({"concepts": {"a": {"codes": ["SCT:1"]}}, "order": ["a", "b"]}, "b is no concept"),
        ({"source": "nifti", "folder": "labels", "values": {"0": "a"}}, "0 is the background"),
    ],
)
def test_labels_in_site_toml_must_not_contradict_themselves(labels: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_settings(labels, Labels, "site.toml")


def test_another_frame_of_reference_is_refused() -> None:
    reference = volume()
    assert refused(segmentation(FRAMES, BOTH, reference, frame="1.9"), reference) == Reason.OTHER_FRAME_OF_REFERENCE
    nameless = volume(frame="")
    assert (
        refused(segmentation(FRAMES, BOTH, nameless, frame="", named=[]), nameless) == Reason.OTHER_FRAME_OF_REFERENCE
    )
    found = segmentations.read_segmentation(segmentation(FRAMES, BOTH, nameless, frame=""), nameless, RULES)
    np.testing.assert_array_equal(found.voxels, expected())


def test_a_segmentation_that_names_images_which_are_not_there_is_refused() -> None:
    reference = volume()
    named = [f"{SERIES}.{k}" for k in range(6)]  # the image has five
    assert refused(segmentation(FRAMES, BOTH, reference, named=named), reference) == Reason.LABEL_REFERENCES_OTHERS
    other = segmentation(FRAMES, BOTH, reference, series="1.9")
    assert refused(other, reference) == Reason.LABEL_REFERENCES_OTHERS
    resent = segmentation(FRAMES, BOTH, reference, named=[f"{SERIES}.9.{k}" for k in range(5)])  # the series is there
    assert refused(resent, reference) == Reason.LABEL_REFERENCES_OTHERS


def test_source_images_of_the_frames_count_where_no_series_is_named() -> None:
    reference = volume()
    obj = segmentation(FRAMES, BOTH, reference, named=[])
    for groups, k in zip(obj.PerFrameFunctionalGroupsSequence, (1, 1, 3), strict=True):
        source = item(ReferencedSOPInstanceUID=f"{SERIES}.{k}")
        groups.DerivationImageSequence = [item(SourceImageSequence=[source])]
    np.testing.assert_array_equal(segmentations.read_segmentation(obj, reference, RULES).voxels, expected())
    source.ReferencedSOPInstanceUID = "1.9.9"
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS


def test_a_frame_beyond_the_images_slices_is_refused() -> None:
    reference = volume()
    longer = volume((7, 6, 6))
    obj = segmentation([*FRAMES, (1, 5, block(slice(0, 2), slice(0, 2)))], BOTH, longer, named=[f"{SERIES}.1"])
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS
    empty = segmentation([*FRAMES, (1, 5, block(slice(0, 0), slice(0, 0)))], BOTH, longer, named=[f"{SERIES}.1"])
    np.testing.assert_array_equal(segmentations.read_segmentation(empty, reference, RULES).voxels, expected())


def test_frames_a_little_off_their_slices_are_put_there_and_frames_half_way_between_are_not() -> None:
    reference = volume()
    near = volume(origin=(-20.05, 10.05, 5.05))
    np.testing.assert_array_equal(
        segmentations.read_segmentation(segmentation(FRAMES, BOTH, near), reference, RULES).voxels, expected()
    )
    shifted = volume(origin=(-20.0 + SPACING[0] / 2, 10.0, 5.0))
    obj = segmentation(FRAMES, BOTH, shifted, between=SPACING[2])
    assert segmentations._place_frames(segmentations._read_frames(obj), reference, SPACING[2]) is None


@pytest.mark.parametrize("between", [1.0, 5.0])
def test_a_wrong_spacing_does_not_matter_where_it_was_drawn_on_this_very_image(between: float) -> None:
    reference = volume()
    obj = segmentation(FRAMES, BOTH, reference, between=between)  # the image's slices are 3 mm apart
    np.testing.assert_array_equal(segmentations.read_segmentation(obj, reference, RULES).voxels, expected())


def finer() -> Volume:
    """A grid whose cells are the eighths of the reference's cells."""
    return volume((14, 12, 10), spacing=(0.75, 1.0, 1.5), origin=(-20.375, 9.5, 4.25), series="1.9")


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_with_a_grid_of_its_own_comes_to_the_nearest_voxels(kind: str) -> None:
    reference, own = volume(), finer()
    wide = expected().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    if kind == "LABELMAP":
        frames = [(0, k, np.choose(wide[:, :, k].T, (0, 2, 1))) for k in (2, 3, 6, 7)]
    else:
        frames = [
            (number, k, (value == wide[:, :, k].T) * (200 if kind == "FRACTIONAL" else 1))
            for number, value in ((1, TUMOUR), (2, OEDEMA))
            for k in (2, 3, 6, 7)
        ]
    obj = segmentation(frames, BOTH, own, kind=kind, between=1.5, series="1.9")
    assert refused(obj, reference) == Reason.LABEL_REFERENCES_OTHERS  # nobody said that its series is there
    found = segmentations.read_segmentation(obj, reference, RULES, [outline_of(own)])
    np.testing.assert_array_equal(found.voxels, expected())
    del obj.DimensionIndexSequence  # without it, highdicom does not read the object
    found = segmentations.read_segmentation(obj, reference, RULES, [outline_of(own)])
    np.testing.assert_array_equal(found.voxels, expected())


def test_frames_that_make_no_regular_grid_are_refused() -> None:
    own = finer()
    frames = [(1, k, np.ones((12, 14), np.uint8)) for k in (0, 1, 4)]
    obj = segmentation(frames, BOTH, own, series="1.9")
    position = obj.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0]
    position.ImagePositionPatient = [*position.ImagePositionPatient[:2], position.ImagePositionPatient[2] + 0.6]
    assert refused(obj, volume(), RULES, [own]) == Reason.IRREGULAR_SPACING
    single = segmentation(frames[:1], BOTH, own, series="1.9")
    assert refused(single, volume(), RULES, [own]) == Reason.IRREGULAR_SPACING


def test_thick_slices_of_a_grid_of_their_own_fill_all_that_they_cover() -> None:
    reference = volume((7, 6, 10), spacing=(1.5, 2.0, 1.0))
    thick = volume((7, 6, 2), spacing=(1.5, 2.0, 5.0), origin=(-20.0, 10.0, 7.0), series="1.9")
    frames = [(1, 0, block(slice(1, 3), slice(2, 6))), (1, 1, block(slice(1, 3), slice(2, 6)))]
    obj = segmentation(frames, BOTH, thick, between=5.0, series="1.9")
    found = segmentations.read_segmentation(obj, reference, RULES, [outline_of(thick)]).voxels
    assert (found[2:6, 1:3] == TUMOUR).all()
    assert (found > 0).sum() == 4 * 2 * 10


def test_a_grid_of_its_own_that_lies_elsewhere_is_refused() -> None:
    away = volume((14, 12, 10), spacing=(0.75, 1.0, 1.5), origin=(-20.375, 9.5, 90.0), series="1.9")
    frames = [(1, k, np.ones((12, 14), np.uint8)) for k in range(10)]
    obj = segmentation(frames, {1: CODES["tumour"]}, away, between=1.5, series="1.9")
    assert refused(obj, volume(), RULES, [away]) == Reason.LABEL_REFERENCES_OTHERS


def test_a_damaged_or_other_object_is_refused_and_never_an_error_of_ours() -> None:
    reference = volume()
    surface = segmentation(FRAMES, BOTH, reference)
    surface.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.5"
    assert refused(surface, reference) == Reason.UNSUPPORTED_IMAGE
    short = segmentation(FRAMES, BOTH, reference)
    short.PixelData = short.PixelData[:4]
    assert refused(short, reference) == Reason.UNDECODABLE_PIXELS
    nowhere = segmentation(FRAMES, BOTH, reference)
    del nowhere.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    assert refused(nowhere, reference) == Reason.MISSING_GEOMETRY
    single = segmentation(FRAMES, BOTH, reference)
    del single.PerFrameFunctionalGroupsSequence
    assert refused(single, reference) == Reason.MISSING_GEOMETRY
    unidentified = segmentation(FRAMES, BOTH, reference)
    del unidentified.PerFrameFunctionalGroupsSequence[2].SegmentIdentificationSequence
    assert refused(unidentified, reference) == Reason.UNREADABLE


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 2)), st.sampled_from(["BINARY", "LABELMAP"]))
def test_what_is_written_as_a_segmentation_is_read_again(voxels: np.ndarray[Any, Any], kind: str) -> None:
    reference = volume(turned=rotation(40, 1))
    if kind == "LABELMAP":
        frames = [(0, k, voxels[:, :, k].T) for k in range(SHAPE[2])]
    else:
        frames = [(value, k, value == voxels[:, :, k].T) for value in (1, 2) for k in range(SHAPE[2])]
    codes = {OEDEMA: CODES["oedema"], TUMOUR: CODES["tumour"]}
    found = segmentations.read_segmentation(segmentation(frames, codes, reference, kind=kind), reference, RULES)
    np.testing.assert_array_equal(found.voxels, voxels)
