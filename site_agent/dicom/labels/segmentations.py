"""DICOM SEG → a label map on the reference's grid (PS3.3, A.51, C.8.20; label maps: A.51.5, since 2024).

Segments are known by the code of their property type alone. Fractional ones count from one half of their maximum on,
label maps by the value that is a segment's number; values that no segment describes, and Pixel Padding Value, are
background. Where frames lie on the reference's slices (within `ON_SLICE` of a voxel at every corner) each is put there,
so that a frame that is left out is an empty slice. A segmentation with a grid of its own becomes a volume by highdicom
and is brought to the reference by the nearest voxel.

highdicom is not asked in the first case: it takes the distance between the frames that are there for their spacing
where the object does not say it (so that a sparse segmentation would be smeared over the slices between). It refuses
objects without a label, a category or an algorithm's type of a segment, or without dimensions, none of which matters
here: those are stacked by ourselves. The tests take it as an oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, Object, ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.extent import read_extent, require_exact
from site_agent.dicom.labels import concepts
from site_agent.dicom.labels.concepts import Known, Mask
from site_agent.dicom.volumes import grid, multiframe
from site_agent.dicom.volumes.frames import read_number, read_whole
from site_agent.dicom.volumes.geometry import LPS_TO_RAS, Plane, Tolerances, positions_along_normal

ON_SLICE = 0.1
"""How far (in voxels, at the corners) a frame may lie from the reference's voxels and still be put straight on them."""
THRESHOLD = 0.5
"""Share of Maximum Fractional Value from which on a fractional segment counts."""
_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and Label Map Segmentation."""
_SPACING = 0.01

Steps = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame: its plane, and the segment that it holds; None in a label map."""

    plane: Plane
    segment: int | None


def read_segmentation(obj: Object, reference: Volume, rules: Labels, drawn_on: Sequence[Volume] = ()) -> LabelMap:
    """One segmentation object's label map.

    Args:
        reference: the volume on whose grid it is wanted.
        drawn_on: other volumes of the study that it may have been drawn on (`concepts.outline_of` of them is enough).
            One that refers to neither these nor the reference is refused.

    Raises:
        Refused: UNSUPPORTED_IMAGE, OTHER_FRAME_OF_REFERENCE, LABEL_REFERENCES_OTHERS, UNMATCHED_LABEL,
            OVERLAPPING_LABELS, MISSING_GEOMETRY, IRREGULAR_SPACING, UNDECODABLE_PIXELS, UNREADABLE.
    """
    with concepts.refuse_unreadable("segmentation"):
        return _read_checked(obj, reference, rules, drawn_on)


def described_concepts(obj: Object, rules: Labels) -> frozenset[str]:
    """The concepts that an object's segments stand for, whether or not they have voxels; none where it is no SEG.

    Raises:
        Refused: UNMATCHED_LABEL (a segment stands for two), UNREADABLE.
    """
    with concepts.refuse_unreadable("segmentation"):
        return (
            frozenset(_segment_concepts(obj, rules).values())
            if str(obj.get("SOPClassUID")) in _CLASSES
            else frozenset()
        )


def named_images(obj: Object) -> Mapping[str, Sequence[str]]:
    """The images that it says it was drawn on, as `concepts.require_known` takes them.

    Raises:
        Refused: UNREADABLE.
    """
    with concepts.refuse_unreadable("segmentation"):
        return _named_images(obj)


def _read_checked(obj: Object, reference: Volume, rules: Labels, drawn_on: Sequence[Volume]) -> LabelMap:
    if str(obj.get("SOPClassUID")) not in _CLASSES or (read_whole(obj, "SamplesPerPixel") or 1) != 1:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "not a segmentation of voxels")
    images = _named_images(obj)
    _same_frame(obj, reference, images)
    concepts.require_known(images, Known.from_volumes((reference, *drawn_on)))
    wanted = _wanted_segments(obj, rules)
    frames = _read_frames(obj)
    here = bool(images) and set(images) <= {reference.series}
    # Drawn on this very volume, its slices are the volume's, whatever Spacing Between Slices says (some scanners write
    # the gap there, and who draws copies it), and nothing can lie outside; drawn on another one, its rim may.
    placed = _place_frames(frames, reference, None if here else _spacing_between(obj))
    if placed is None:
        drawn, affine = _own_grid(obj, frames, wanted, rules)
        return concepts.put_on_grid(drawn, affine, reference)
    masks, lost = _put_masks(obj, frames, placed, wanted, reference)
    concepts.require_inside(lost, 0.0 if here else concepts.MOST_LOST)
    return concepts.merge_masks(masks, reference.voxels.shape, rules)


def _named_images(obj: Object) -> dict[str, list[str]]:
    """Series → images that it names (C.12.1.1: Common Instance Reference); "" → the frames' source images without."""
    found: dict[str, list[str]] = {}
    others = [
        series
        for study in obj.get("StudiesContainingOtherReferencedInstancesSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
    ]
    for series in (*(obj.get("ReferencedSeriesSequence") or ()), *others):
        images = found.setdefault(str(series.get("SeriesInstanceUID", "")), [])
        images.extend(str(image.ReferencedSOPInstanceUID) for image in series.get("ReferencedInstanceSequence") or ())
    if found:
        return found
    shared = obj.get("SharedFunctionalGroupsSequence") or ()
    images = [
        str(image.ReferencedSOPInstanceUID)
        for groups in (*shared, *(obj.get("PerFrameFunctionalGroupsSequence") or ()))
        for derivation in groups.get("DerivationImageSequence") or ()
        for image in derivation.get("SourceImageSequence") or ()
    ]
    return {"": images} if images else {}


def _same_frame(obj: Object, reference: Volume, images: Mapping[str, Sequence[str]]) -> None:
    frame = str(obj.get("FrameOfReferenceUID") or "")
    if frame != reference.frame_of_reference:
        raise ObjectRefused(
            Reason.OTHER_FRAME_OF_REFERENCE, "the segmentation has another frame of reference than the image"
        )
    if not frame and reference.series not in images:
        raise ObjectRefused(
            Reason.OTHER_FRAME_OF_REFERENCE, "neither a frame of reference nor a reference relates the label"
        )


def _wanted_segments(obj: Object, rules: Labels) -> dict[int, str]:
    """Segment number → concept; raises Refused (`UNMATCHED_LABEL`) where there is none."""
    found = _segment_concepts(obj, rules)
    if not found:
        count = len(obj.get("SegmentSequence") or ())
        raise ObjectRefused(Reason.UNMATCHED_LABEL, f"none of {count} segments carries a code of site.toml")
    return found


def _segment_concepts(obj: Object, rules: Labels) -> dict[int, str]:
    """As `_wanted_segments`, and empty where there is none. Numbers may have gaps, though only label maps should."""
    background = read_whole(obj, "PixelPaddingValue") if _is_label_map(obj) else None
    segments = [
        (
            read_whole(segment, "SegmentNumber"),
            concepts.concept_of(concepts.codes_of(segment.get("SegmentedPropertyTypeCodeSequence")), None, rules),
        )
        for segment in obj.get("SegmentSequence") or ()
    ]
    numbers = Counter(value for value, _ in segments)
    if any(concept is not None and (value is None or numbers[value] > 1) for value, concept in segments):
        raise ObjectRefused(Reason.UNREADABLE, "a segment of site.toml without a number of its own")
    return {value: concept for value, concept in segments if concept and value is not None and value != background}


def _is_label_map(obj: Object) -> bool:
    return str(obj.get("SegmentationType")) == "LABELMAP"


def _read_frames(obj: Object) -> list[_Frame]:
    if not multiframe.is_enhanced(obj):
        raise ObjectRefused(Reason.MISSING_GEOMETRY, "the segmentation does not say where its frames lie")
    planes = [frame.plane for frame in multiframe.read_frames(obj, 0, Tolerances())]
    if _is_label_map(obj):
        return [_Frame(plane, None) for plane in planes]
    shared = (obj.get("SharedFunctionalGroupsSequence") or [{}])[0].get("SegmentIdentificationSequence")
    return [
        _Frame(plane, int((groups.get("SegmentIdentificationSequence") or shared)[0].ReferencedSegmentNumber))
        for plane, groups in zip(planes, obj.PerFrameFunctionalGroupsSequence, strict=True)
    ]


def _spacing_between(obj: Object) -> float | None:
    """Spacing Between Slices of the frames, where it is said for all of them."""
    measures = (obj.get("SharedFunctionalGroupsSequence") or [{}])[0].get("PixelMeasuresSequence") or [{}]
    return read_number(measures[0], "SpacingBetweenSlices")


def _place_frames(frames: Sequence[_Frame], reference: Volume, between: float | None) -> list[Steps] | None:
    """For each frame the steps (3, 3) from (column, row, 1) to the reference's voxel, or None: a grid of its own."""
    placed = []
    for frame in frames:
        steps = _on_slice(frame.plane, reference)
        if steps is None:
            return None
        placed.append(steps)
    if placed and between:
        # Every fifth slice of a finer image may be hit by chance: then the object's own spacing says so.
        axis = int(np.flatnonzero(~np.any(placed[0][:, :2], axis=1))[0])
        step = float(np.linalg.norm(reference.affine[:3, axis]))
        if abs(abs(between) - step) > _SPACING * step and len({tuple(steps[:, 2]) for steps in placed}) > 1:
            return None
    return placed


def _on_slice(plane: Plane, reference: Volume) -> Steps | None:
    matrix, offset = grid.map_between(_affine_of(plane, 1.0), reference.affine)
    exact = np.column_stack((matrix[:, :2], offset))
    steps = np.rint(exact)
    corners = np.array([(c, r, 1) for c in (0, plane.columns - 1) for r in (0, plane.rows - 1)], dtype=np.float64)
    if np.abs(corners @ (exact - steps).T).max() > ON_SLICE or not np.array_equal(
        np.sort(np.abs(steps[:, :2]).sum(axis=1)), (0, 1, 1)
    ):
        return None
    return steps.astype(np.int64)


def _affine_of(plane: Plane, step: float) -> grid.Affine:
    """(column, row, slice) → RAS+ millimetres, slices `step` apart."""
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(plane.row) * plane.spacing[1]
    affine[:3, 1] = np.asarray(plane.column) * plane.spacing[0]
    affine[:3, 2] = plane.normal * step
    affine[:3, 3] = plane.position
    return np.asarray(LPS_TO_RAS @ affine)


def _put_masks(
    obj: Object, frames: Sequence[_Frame], placed: Sequence[Steps], wanted: Mapping[int, str], reference: Volume
) -> tuple[dict[str, Mask], float]:
    """Masks by concept on the reference's grid, and the share of labelled voxels that lie outside it."""
    stored = _stored_frames(obj, len(frames))
    shape = np.array(reference.voxels.shape)
    masks = {concept: np.zeros(reference.voxels.shape, dtype=np.bool_) for concept in wanted.values()}
    drawn = outside = 0
    for frame, steps, pixels in zip(frames, placed, stored, strict=True):
        for segment, concept in wanted.items():
            if frame.segment not in (None, segment):
                continue
            rows, columns = np.nonzero(pixels == segment if frame.segment is None else pixels)
            at = np.column_stack((columns, rows, np.ones_like(rows))) @ steps.T
            inside = np.all((at >= 0) & (at < shape), axis=1)
            i, j, k = at[inside].T
            masks[concept][i, j, k] = True
            drawn, outside = drawn + len(at), outside + len(at) - int(np.count_nonzero(inside))
    return masks, outside / drawn if drawn else 0.0


def _stored_frames(obj: Object, count: int) -> npt.NDArray[np.generic]:
    """Frames (n, rows, columns): segment numbers of a label map, else whether the segment is there."""
    from pydicom.pixels import pixel_array

    extent = read_extent(obj)
    require_exact(obj, extent)
    try:
        pixels = pixel_array(obj, raw=True).reshape(count, extent.rows, extent.columns)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - plugins raise anything for pixels that are not what they should be
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "the segmentation's pixels cannot be decoded") from None
    if _is_label_map(obj):
        return np.asarray(pixels)
    if str(obj.get("SegmentationType")) == "FRACTIONAL":
        return np.asarray(pixels >= THRESHOLD * int(obj.MaximumFractionalValue))
    return np.asarray(pixels != 0)


def _own_grid(
    obj: Object, frames: Sequence[_Frame], wanted: Mapping[int, str], rules: Labels
) -> tuple[LabelMap, grid.Affine]:
    """The label map on the segmentation's own regular grid: by highdicom, or what it does not read by ourselves."""
    own = _stack_frames(frames, _spacing_between(obj))
    try:
        masks, affine = _by_highdicom(obj, wanted)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - highdicom lets through whatever its parts raise, SQLite's errors among them
        placed = _place_frames(frames, own, None)
        if placed is None:
            raise ObjectRefused(Reason.IRREGULAR_SPACING, "the segmentation's frames make no regular grid") from None
        masks, _ = _put_masks(obj, frames, placed, wanted, own)
        affine = own.affine
    return concepts.merge_masks(masks, next(iter(masks.values())).shape, rules), affine


def _by_highdicom(obj: Object, wanted: Mapping[int, str]) -> tuple[dict[str, Mask], grid.Affine]:
    """Masks by concept; highdicom's axes are (slice, row, column), in LPS."""
    from highdicom.seg import Segmentation

    volume = Segmentation.from_dataset(obj, copy=True).get_volume(
        segment_numbers=sorted(wanted), combine_segments=False, rescale_fractional=False, rtol=Tolerances().step
    )
    array = volume.array
    if str(obj.get("SegmentationType")) == "FRACTIONAL":
        array = array >= THRESHOLD * int(obj.MaximumFractionalValue)
    masks: dict[str, Mask] = {}
    for index, segment in enumerate(sorted(wanted)):
        mask = np.asarray(array[..., index].transpose(2, 1, 0) != 0)
        masks[wanted[segment]] = masks.get(wanted[segment], np.zeros_like(mask)) | mask
    return masks, LPS_TO_RAS @ np.asarray(volume.affine, dtype=np.float64)[:, [2, 1, 0, 3]]


def _stack_frames(frames: Sequence[_Frame], between: float | None) -> Volume:
    """The outline of the grid that frames lie on: their own smallest distance apart, where the object does not say."""
    planes = [frame.plane for frame in frames]
    distances = positions_along_normal(planes)
    first = planes[int(np.argmin(distances))]
    gaps = np.diff(np.sort(distances))
    gaps = gaps[gaps > Tolerances().same_position]
    step = abs(between or (float(gaps.min()) if len(gaps) else 0.0))
    if not step:
        raise ObjectRefused(Reason.IRREGULAR_SPACING, "a single slice that does not say how thick it is")
    shape = (first.columns, first.rows, round(float(np.ptp(distances)) / step) + 1)
    if np.prod(shape, dtype=np.float64) > Tolerances().most_voxels:
        raise ObjectRefused(Reason.IRREGULAR_SPACING, "the segmentation's frames are too far apart for a grid")
    return Volume(np.broadcast_to(np.float32(0), shape), _affine_of(first, step), "", "", ())
