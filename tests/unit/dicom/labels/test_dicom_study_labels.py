"""The label objects of one study: one label map where they give each concept once, and what they were drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dicom_labels_rig import (
    CODES,
    ORDERED,
    RULES,
    SERIES,
    SHAPE,
    contour,
    item,
    roi,
    segmentation,
    slices,
    structures,
    volume,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.dataset import Dataset

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import DicomDataset, FolderSource, Labels
from site_agent.dicom.labels import label_map, segmentations
from site_agent.dicom.labels.concepts import outline_of
from site_agent.dicom.roles.study import Study

OEDEMA, TUMOUR = 1, 2
OTHER = "1.2.3.3"
"""A series of the study that is no channel."""
TUMOUR_AT, OEDEMA_AT = (slice(2, 6), slice(1, 3), 1), (slice(2, 6), slice(3, 5), 1)


def config(rules: Labels = RULES, source: str = "seg") -> DicomDataset:
    return FolderSource(
        source="dicom", path="/nowhere", channels=("FLAIR",), labels=rules.model_copy(update={"source": source})
    )


def study(
    objects: Mapping[str, Sequence[Dataset]],
    modality: str = "SEG",
    images: Sequence[Dataset] = (),
    broken: Mapping[str, Reason] | None = None,
) -> Study:
    """A study of label series, and of `images` in one series that is no channel."""
    lying = {series: [*several] for series, several in objects.items()}
    modalities = dict.fromkeys(lying, modality) | {SERIES: "MR"}
    if images:
        lying[OTHER], modalities[OTHER] = [*images], "MR"
    modalities |= dict.fromkeys(set(broken or {}) - set(modalities), modality)
    return Study({}, modalities, {}, broken or {}, lambda series: lying.get(series, []))


def read(
    *objects: Dataset, rules: Labels = RULES, source: str = "seg", drawn_on: Sequence[Volume] = (), **more: Any
) -> np.ndarray[Any, Any]:
    """The label of a study that holds these objects, each in a series of its own."""
    modality = {"seg": "SEG", "rtstruct": "RTSTRUCT"}[source]
    holding = study({f"1.2.8.{n}": [obj] for n, obj in enumerate(objects)}, modality, **more)
    return label_map.read_label_map(holding, config(rules, source), volume(), drawn_on).voxels


def refused(*objects: Dataset, **more: Any) -> Reason:
    with pytest.raises(ObjectRefused) as error:
        read(*objects, **more)
    return error.value.reason


def filled(*places: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def seg(on: Volume | None = None, *, grid: Volume | None = None, **masks: np.ndarray[Any, Any]) -> Dataset:
    """A segmentation of these concepts, an empty one described, drawn on a volume."""
    on = on or volume()
    codes, frames = {}, []
    for number, (concept, mask) in enumerate(masks.items(), start=1):
        codes[number] = CODES[concept]
        frames += [(number, k, mask[:, :, k].T) for k in range(mask.shape[2]) if mask[:, :, k].any()]
    frames = frames or [(1, 0, np.zeros((SHAPE[1], SHAPE[0]), np.uint8))]
    return segmentation(frames, codes, grid or on, series=on.series, named=[uid for uid, _ in on.frames])


def tumour() -> Dataset:
    return seg(tumour=filled(TUMOUR_AT))


def oedema() -> Dataset:
    return seg(oedema=filled(OEDEMA_AT))


def both() -> np.ndarray[Any, Any]:
    return (filled(TUMOUR_AT) * TUMOUR + filled(OEDEMA_AT) * OEDEMA).astype(np.uint8)


@pytest.mark.parametrize("objects", [(tumour, oedema), (oedema, tumour)])
def test_an_object_a_structure_makes_one_label_map_in_any_order(objects: Sequence[Any]) -> None:
    np.testing.assert_array_equal(read(*(made() for made in objects)), both())
    together = study({"1.2.8.1": [made() for made in objects]})  # in one series
    np.testing.assert_array_equal(label_map.read_label_map(together, config(), volume(), ()).voxels, both())


@settings(max_examples=40, deadline=None)
@given(
    arrays.arrays(np.uint8, SHAPE, elements=st.integers(0, 3)),
    arrays.arrays(np.bool_, SHAPE),
    st.sampled_from([("oedema", "tumour"), ("tumour", "oedema")]),
)
def test_structures_in_objects_of_their_own_count_as_in_one_object(
    voxels: np.ndarray[Any, Any], shared: np.ndarray[Any, Any], order: tuple[str, ...]
) -> None:
    rules = ORDERED.model_copy(update={"order": order})
    masks = {"tumour": (voxels == TUMOUR) | shared, "oedema": (voxels == OEDEMA) | shared}
    masks = {concept: mask for concept, mask in masks.items() if mask.any()}
    if masks:
        apart = read(*(seg(**{concept: mask}) for concept, mask in masks.items()), rules=rules)
        np.testing.assert_array_equal(apart, segmentations.read_segmentation(seg(**masks), volume(), rules).voxels)


def test_two_objects_that_claim_a_voxel_follow_the_order_or_are_refused() -> None:
    wide = seg(oedema=filled(TUMOUR_AT, OEDEMA_AT))
    assert refused(tumour(), wide) == Reason.OVERLAPPING_LABELS
    np.testing.assert_array_equal(read(tumour(), wide, rules=ORDERED), both())
    turned = ORDERED.model_copy(update={"order": ("tumour", "oedema")})
    assert set(np.unique(read(tumour(), wide, rules=turned))) == {0, OEDEMA}
    half = ORDERED.model_copy(update={"order": ("tumour",)})
    assert refused(tumour(), wide, rules=half) == Reason.OVERLAPPING_LABELS


@pytest.mark.parametrize("second", [filled((slice(2, 6), slice(1, 4), 1)), filled()])
def test_two_objects_that_give_a_concept_otherwise_are_not_chosen_between(second: np.ndarray[Any, Any]) -> None:
    revised = seg(tumour=second)
    revised.ContentDate = "20991231"
    assert refused(tumour(), revised) == Reason.SEVERAL_LABELS
    assert refused(seg(tumour=filled(TUMOUR_AT), oedema=filled(OEDEMA_AT)), revised) == Reason.SEVERAL_LABELS


def test_the_same_label_under_another_uid_counts_once() -> None:
    np.testing.assert_array_equal(read(tumour(), oedema(), tumour()), both())
    whole = seg(tumour=filled(TUMOUR_AT), oedema=filled(OEDEMA_AT))
    np.testing.assert_array_equal(read(whole, oedema()), both())


def test_objects_on_grids_of_their_own_meet_on_the_references() -> None:
    finer = volume((14, 12, 10), spacing=(0.75, 1.0, 1.5), origin=(-20.375, 9.5, 4.25), series=OTHER)
    wide = filled(OEDEMA_AT).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    drawn = seg(finer, oedema=wide)
    np.testing.assert_array_equal(read(tumour(), drawn, drawn_on=[outline_of(finer)]), both())


def unreadable() -> Dataset:
    obj = oedema()
    obj.PixelData = obj.PixelData[:2]
    return obj


def elsewhere(**masks: np.ndarray[Any, Any]) -> Dataset:
    obj = seg(**masks)
    obj.FrameOfReferenceUID = "1.9"
    return obj


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        (unreadable(), Reason.UNDECODABLE_PIXELS),
        (elsewhere(oedema=filled(OEDEMA_AT)), Reason.OTHER_FRAME_OF_REFERENCE),
        (seg(volume(series="1.9"), oedema=filled(OEDEMA_AT)), Reason.LABEL_REFERENCES_OTHERS),
    ],
)
def test_an_object_that_gives_a_concept_and_cannot_be_used_keeps_the_study_out(obj: Dataset, reason: Reason) -> None:
    assert refused(tumour(), obj) == reason
    assert refused(obj, tumour()) == reason


def test_an_object_whose_segments_cannot_be_told_keeps_the_study_out() -> None:
    obj = oedema()
    del obj.SegmentSequence[0].SegmentNumber
    assert refused(tumour(), obj) == Reason.UNREADABLE


@pytest.mark.parametrize("reason", [Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES, Reason.UNDECODABLE_PIXELS])
def test_a_label_series_that_did_not_come_whole_keeps_the_study_out(reason: Reason) -> None:
    assert refused(tumour(), broken={"1.2.8.7": reason}) == reason


def test_labels_of_other_things_or_of_other_images_do_not_matter_beside_one_that_fits() -> None:
    nothing = seg(tumour=filled(TUMOUR_AT))
    nothing.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"
    other = elsewhere(tumour=filled(OEDEMA_AT))
    surface = {"1.2.8.7": Reason.UNSUPPORTED_IMAGE}  # as the door has it
    alone = np.where(both() == TUMOUR, TUMOUR, 0)
    np.testing.assert_array_equal(read(tumour(), nothing, other, broken=surface), alone)
    assert refused(nothing, other) == Reason.UNMATCHED_LABEL
    assert refused(other, broken=surface) == Reason.UNSUPPORTED_IMAGE


def test_kinds_are_not_mixed() -> None:
    holding = study({"1.2.8.0": [tumour()]})
    contours = structures([roi(name="oedema")], {1: [contour(volume(), 1, CORNERS)]}, named=volume())
    beside = replace(
        holding,
        modalities={**holding.modalities, "1.2.8.1": "RTSTRUCT"},
        objects=lambda series: [contours] if series == "1.2.8.1" else holding.objects(series),
    )
    for source, concept in (("seg", TUMOUR), ("rtstruct", OEDEMA)):
        found = label_map.read_label_map(beside, config(source=source), volume(), ()).voxels
        assert set(np.unique(found)) == {0, concept}


# RTSTRUCT

CORNERS = [(1.5, 1.5), (4.5, 1.5), (4.5, 4.5), (1.5, 4.5)]


def contoured(name: str, k: int = 1, on: Volume | None = None) -> Dataset:
    on = on or volume()
    return structures([roi(name=name, frame=on.frame_of_reference)], {1: [contour(on, k, CORNERS)]}, named=on)


def test_structure_sets_with_a_structure_each_make_one_label_map_and_two_of_one_structure_do_not() -> None:
    found = read(contoured("tumour"), contoured("oedema", 2), contoured("tumour"), source="rtstruct")
    expected = np.zeros(SHAPE, np.uint8)
    expected[2:5, 2:5, 1], expected[2:5, 2:5, 2] = TUMOUR, OEDEMA
    np.testing.assert_array_equal(found, expected)
    assert refused(contoured("tumour"), contoured("oedema"), source="rtstruct") == Reason.OVERLAPPING_LABELS
    assert refused(contoured("tumour"), contoured("tumour", 2), source="rtstruct") == Reason.SEVERAL_LABELS
    points = contoured("oedema")
    points.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"
    assert refused(contoured("tumour"), points, source="rtstruct") == Reason.UNSUPPORTED_IMAGE


# Drawn on a series that is no channel


def beside(shape: tuple[int, int, int] = SHAPE, **more: Any) -> Volume:
    return volume(shape, series=OTHER, **more)


def test_a_label_drawn_on_another_series_of_the_study_is_taken_when_that_series_is_there() -> None:
    obj = seg(beside(), tumour=filled(TUMOUR_AT))
    np.testing.assert_array_equal(read(obj, images=slices(beside())) > 0, filled(TUMOUR_AT))
    assert refused(obj) == Reason.LABEL_REFERENCES_OTHERS


def test_a_label_on_another_series_grid_comes_to_the_references() -> None:
    finer = beside((14, 12, 10), spacing=(0.75, 1.0, 1.5), origin=(-20.375, 9.5, 4.25))
    wide = filled(TUMOUR_AT).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(read(seg(finer, tumour=wide), images=slices(finer)) > 0, filled(TUMOUR_AT))


def test_a_structure_set_drawn_on_another_series_of_the_study_is_taken_when_that_series_is_there() -> None:
    found = read(contoured("tumour", on=beside()), source="rtstruct", images=slices(beside()))
    np.testing.assert_array_equal(found > 0, filled((slice(2, 5), slice(2, 5), 1)))
    assert refused(contoured("tumour", on=beside()), source="rtstruct") == Reason.LABEL_REFERENCES_OTHERS


def test_a_label_that_names_images_without_their_series_finds_them_in_the_study() -> None:
    obj = seg(beside(), tumour=filled(TUMOUR_AT))
    del obj.ReferencedSeriesSequence
    source = item(ReferencedSOPInstanceUID=f"{OTHER}.1")
    obj.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence = [item(SourceImageSequence=[source])]
    np.testing.assert_array_equal(read(obj, images=slices(beside())) > 0, filled(TUMOUR_AT))
    assert refused(obj) == Reason.LABEL_REFERENCES_OTHERS
    contours = structures([roi()], {1: [contour(beside(), 1, CORNERS, image=f"{OTHER}.1")]})
    found = read(contours, source="rtstruct", images=slices(beside()))
    np.testing.assert_array_equal(found > 0, filled((slice(2, 5), slice(2, 5), 1)))
    assert refused(contours, source="rtstruct") == Reason.LABEL_REFERENCES_OTHERS


def resent() -> tuple[Dataset, list[Dataset]]:
    """The archive holds a copy of the series whose images have new UIDs."""
    copies = slices(beside())
    for copy in copies:
        copy.SOPInstanceUID += ".1"
    return seg(beside(), tumour=filled(TUMOUR_AT)), copies


def got_up() -> tuple[Dataset, list[Dataset]]:
    """The series has a frame of reference of its own, whatever the label says of itself."""
    return seg(beside(), tumour=filled(TUMOUR_AT)), slices(beside(frame="1.9"))


def one_lost() -> tuple[Dataset, list[Dataset]]:
    return seg(beside(), tumour=filled(TUMOUR_AT)), [one for k, one in enumerate(slices(beside())) if k != 2]


def outside() -> tuple[Dataset, list[Dataset]]:
    """The series shows other slices than those that are labelled."""
    away = beside(origin=(-20.0, 10.0, 50.0))
    return seg(away, grid=volume(), tumour=filled(TUMOUR_AT)), slices(away)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (resent, Reason.LABEL_REFERENCES_OTHERS),
        (one_lost, Reason.LABEL_REFERENCES_OTHERS),
        (outside, Reason.LABEL_REFERENCES_OTHERS),
        (got_up, Reason.OTHER_FRAME_OF_REFERENCE),
    ],
)
def test_a_label_whose_own_series_does_not_bear_it_out_is_refused(made: Any, reason: Reason) -> None:
    obj, images = made()
    assert refused(obj, images=images) == reason


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (Reason.RETRIEVE_FAILED, Reason.RETRIEVE_FAILED),
        (Reason.INCOMPLETE_SERIES, Reason.INCOMPLETE_SERIES),
        (Reason.BURNED_IN_ANNOTATION, Reason.LABEL_REFERENCES_OTHERS),
    ],
)
def test_a_label_of_a_series_that_did_not_come_whole_is_refused_with_a_reason_that_asks_again(
    lost: Reason, reason: Reason
) -> None:
    obj = seg(beside(), tumour=filled(TUMOUR_AT))
    assert refused(obj, images=slices(beside()), broken={OTHER: lost}) == reason


def test_another_series_does_not_help_a_label_of_the_reference_whose_images_are_not_there() -> None:
    obj = segmentation([(1, 1, filled(TUMOUR_AT)[:, :, 1].T)], {1: CODES["tumour"]}, volume(), named=[f"{OTHER}.1"])
    assert refused(obj, images=slices(beside())) == Reason.LABEL_REFERENCES_OTHERS
