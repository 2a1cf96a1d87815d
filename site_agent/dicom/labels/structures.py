"""RTSTRUCT → a label map on the reference's grid (PS3.3, A.19, C.8.8.5, C.8.8.6).

Structures are known by the code of their observation, or, where they carry none, by their exact name. A contour is
drawn on the slice in whose plane it lies (within `ON_SLICE` of the slices' distance), which must be the image that it
names; nothing is drawn between slices. A voxel belongs to a contour if its centre lies inside by the even-odd rule, or
on its path (C.8.8.6.3), which serves keyholes too. Contours of one structure on one slice: CLOSEDPLANAR_XOR ones are
combined by exclusive or; of CLOSED_PLANAR ones, one that lies within another cuts a hole (what most systems mean,
though they should say XOR), any other adds to it; one that comes twice counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, Object, ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels import concepts
from site_agent.dicom.labels.concepts import Known, Mask
from site_agent.dicom.volumes.frames import read_whole

ON_SLICE = 0.1
"""How far a contour's points may lie from their slice's plane, as share of the slices' distance."""
_ON_PATH = 2e-3
"""Pixels: so near to the path counts as on it. Contours are written with three decimals of a millimetre."""
_FEWEST = 3
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Contour:
    """A closed contour: points (n, 3) in LPS millimetres, the images it names, whether it is combined by XOR."""

    points: Points
    images: tuple[str, ...]
    exclusive: bool


@dataclass(frozen=True, slots=True)
class _Structure:
    concept: str
    frame_of_reference: str
    contours: tuple[_Contour, ...]


def read_structure_set(obj: Object, reference: Volume, rules: Labels, drawn_on: Sequence[Volume] = ()) -> LabelMap:
    """One structure set's label map.

    Args:
        drawn_on: other volumes of the study that it may have been drawn on (`concepts.outline_of` of them is enough):
            its contours are then filled on that one's grid, and brought to the reference's by the nearest voxel.

    Raises:
        Refused: UNSUPPORTED_IMAGE, OTHER_FRAME_OF_REFERENCE, LABEL_REFERENCES_OTHERS, UNMATCHED_LABEL,
            OVERLAPPING_LABELS, MISSING_SLICES, UNREADABLE.
    """
    with concepts.refuse_unreadable("structure set"):
        return _read_checked(obj, reference, rules, drawn_on)


def described_concepts(obj: Object, rules: Labels) -> frozenset[str]:
    """The concepts that an object's structures stand for, drawn or not; none where it is no structure set.

    Raises:
        Refused: UNMATCHED_LABEL (a structure stands for two), UNREADABLE.
    """
    with concepts.refuse_unreadable("structure set"):
        known = _known_items(obj, rules) if str(obj.get("SOPClassUID")) == _STRUCTURES else ()
        return frozenset(concept for concept, _ in known)


def named_images(obj: Object) -> Mapping[str, Sequence[str]]:
    """The images that it says it was drawn on, as `concepts.require_known` takes them; those that contours name where
    it names no series.

    Raises:
        Refused: UNREADABLE.
    """
    with concepts.refuse_unreadable("structure set"):
        images = [
            str(image.ReferencedSOPInstanceUID)
            for roi in obj.get("ROIContourSequence") or ()
            for contour in roi.get("ContourSequence") or ()
            for image in contour.get("ContourImageSequence") or ()
        ]
        return _named_images(obj) or ({"": images} if images else {})


def _read_checked(obj: Object, reference: Volume, rules: Labels, drawn_on: Sequence[Volume]) -> LabelMap:
    if str(obj.get("SOPClassUID")) != _STRUCTURES:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "not a structure set")
    volumes = (reference, *drawn_on)
    known = Known.from_volumes(volumes)
    series = _named_images(obj)
    concepts.require_known(series, known)
    structures = _wanted_structures(obj, rules)
    images = {image for structure in structures for contour in structure.contours for image in contour.images}
    concepts.require_known({"": sorted(images)} if images else {}, known)
    canvas = next(
        (volume for volume in volumes if images and images <= Known.from_volumes([volume]).instances),
        next((volume for volume in volumes if volume.series in series), reference),
    )
    masks: dict[str, Mask] = {}
    for structure in structures:
        _require_related(structure, canvas)
        mask = _draw_structure(structure, canvas)
        masks[structure.concept] = masks.get(structure.concept, np.zeros_like(mask)) | mask
    drawn = concepts.merge_masks(masks, canvas.voxels.shape, rules)
    if canvas is reference:
        return drawn
    if canvas.frame_of_reference != reference.frame_of_reference:
        raise ObjectRefused(Reason.OTHER_FRAME_OF_REFERENCE, "drawn on a series with another frame of reference")
    return concepts.put_on_grid(drawn, canvas.affine, reference)


def _named_images(obj: Object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for frame in obj.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                images = found.setdefault(str(series.get("SeriesInstanceUID", "")), [])
                images.extend(str(item.ReferencedSOPInstanceUID) for item in series.get("ContourImageSequence") or ())
    return found


def _wanted_structures(obj: Object, rules: Labels) -> list[_Structure]:
    """The structures that are a concept of the rules."""
    contours = {int(item.ReferencedROINumber): item for item in obj.get("ROIContourSequence") or ()}
    found = []
    for concept, roi in _known_items(obj, rules):
        number = int(roi.ROINumber)
        frame = str(roi.get("ReferencedFrameOfReferenceUID") or "")
        items = contours[number].get("ContourSequence") or () if number in contours else ()
        found.append(_Structure(concept, frame, tuple(_read_contour(item) for item in items)))
    if not found:
        rois = obj.get("StructureSetROISequence") or ()
        names = {name for rule in rules.concepts.values() for name in rule.names}
        hidden = sum(str(roi.get("ROIName") or "") in names for roi in rois)
        more = f"; {hidden} have such a name, and a code beside it that site.toml does not list" if hidden else ""
        raise ObjectRefused(Reason.UNMATCHED_LABEL, f"none of {len(rois)} structures is a concept of site.toml{more}")
    return found


def _known_items(obj: Object, rules: Labels) -> list[tuple[str, Object]]:
    """Concept and item of the structures that are one."""
    codes: dict[int, tuple[tuple[str, str], ...]] = {}
    for item in obj.get("RTROIObservationsSequence") or ():
        said = concepts.codes_of(item.get("RTROIIdentificationCodeSequence"))
        number = int(item.ReferencedROINumber)
        codes[number] = codes.get(number, ()) + said
    found = []
    for roi in obj.get("StructureSetROISequence") or ():
        concept = concepts.concept_of(codes.get(int(roi.ROINumber), ()), str(roi.get("ROIName") or ""), rules)
        if concept is not None:
            found.append((concept, roi))
    return found


def _read_contour(item: Object) -> _Contour:
    kind = str(item.get("ContourGeometricType"))
    if kind not in _CLOSED:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "a structure with points or open contours has no inside")
    points = np.asarray([float(value) for value in item.ContourData], dtype=np.float64).reshape(-1, 3)
    said = read_whole(item, "NumberOfContourPoints")
    if said is not None and said > len(points):
        raise ObjectRefused(Reason.UNREADABLE, f"a contour of {len(points)} points that says it has {said}")
    if not np.isfinite(points).all():
        raise ObjectRefused(Reason.UNREADABLE, "a contour with points that are no numbers")
    images = tuple(str(image.ReferencedSOPInstanceUID) for image in item.get("ContourImageSequence") or ())
    return _Contour(points, images, kind == "CLOSEDPLANAR_XOR")


def _require_related(structure: _Structure, canvas: Volume) -> None:
    """Raise unless the structure lies in the canvas' frame of reference.

    Some systems give the structure set a frame of its own. That is taken where every contour names an image of the
    canvas; that each lies in that image's plane is required anyway.
    """
    if structure.frame_of_reference and structure.frame_of_reference == canvas.frame_of_reference:
        return
    instances = Known.from_volumes([canvas]).instances
    if structure.contours and all(
        contour.images and instances.issuperset(contour.images) for contour in structure.contours
    ):
        return
    raise ObjectRefused(Reason.OTHER_FRAME_OF_REFERENCE, "the structure has another frame of reference than the image")


def _draw_structure(structure: _Structure, canvas: Volume) -> Mask:
    """A structure as a mask (I, J, K)."""
    mask = np.zeros(canvas.voxels.shape, dtype=np.bool_)
    slices: dict[int, list[tuple[Points, bool]]] = {}
    inverse = np.linalg.inv(canvas.affine)
    places = {instance: k for k, (instance, _) in enumerate(canvas.frames)}
    shared = len(places) < len(canvas.frames)  # a multi-frame object: its UID does not tell the slice
    for contour in structure.contours:
        ras = contour.points * (-1.0, -1.0, 1.0)
        at = ras @ inverse[:3, :3].T + inverse[:3, 3]
        k = round(float(np.mean(at[:, 2]))) if len(at) else -1
        if not 0 <= k < len(canvas.frames):
            raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, "a contour lies beyond the image's slices")
        if np.abs(at[:, 2] - k).max() > ON_SLICE:
            raise ObjectRefused(
                Reason.LABEL_REFERENCES_OTHERS, "a contour lies between the image's slices, or across them"
            )
        if contour.images and not shared and k not in {places.get(image) for image in contour.images}:
            raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, "a contour does not lie on the image that it names")
        slices.setdefault(k, []).append((at[:, :2], contour.exclusive))
    used = np.array(sorted(slices))
    if len(used) >= _FEWEST and np.diff(used).min() > 1:
        raise ObjectRefused(
            Reason.MISSING_SLICES, f"no two of the {len(used)} slices that carry contours are neighbours"
        )
    for k, contours in slices.items():
        mask[:, :, k] = _draw_slice(contours, mask.shape[:2])
    return mask


def _draw_slice(contours: Sequence[tuple[Points, bool]], shape: tuple[int, ...]) -> Mask:
    """Contours of one structure on one slice, points (n, 2) in voxels, as a mask (I, J)."""
    drawn = [(*fill_polygon(points, shape), exclusive) for points, exclusive in contours]
    drawn.sort(key=lambda one: -int(np.count_nonzero(one[0])))  # what may hold others comes before them
    inside, paths = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    seen: set[bytes] = set()
    for filled, path, exclusive in drawn:
        paths |= path
        if exclusive:
            inside ^= filled
        elif filled.tobytes() not in seen:
            seen.add(filled.tobytes())
            inside = inside | filled if np.any(filled & ~inside) else inside ^ filled
    return inside | paths


def fill_polygon(points: Points, shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """The voxels whose centres a polygon holds by the even-odd rule, and those that lie on its path; (I, J) each.

    Args:
        points: corners (n, 2) in voxels; the last is joined to the first.
    """
    width, height = shape
    crossings = np.zeros((width + 1, height), dtype=np.int32)
    path = np.zeros((width, height), dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = max(0, int(np.ceil(min(y0, y1)))), min(height - 1, int(np.floor(max(y0, y1))))
        rows = np.arange(low, high + 1)
        if y0 != y1 and len(rows):
            x = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
            # Each row counts an edge's lower end and not its upper one, so that a corner is crossed once.
            half_open = rows < max(y0, y1)
            np.add.at(crossings, (np.clip(np.ceil(x), 0, width).astype(int)[half_open], rows[half_open]), 1)
        _mark_edge(path, x0, y0, x1, y1)
    filled = np.cumsum(crossings, axis=0)[:width] % 2 == 1
    return np.asarray(filled), path


def _mark_edge(path: Mask, x0: float, y0: float, x1: float, y1: float) -> None:
    """Mark the voxel centres that lie on an edge, within `_ON_PATH`."""
    width, height = path.shape
    steep = abs(y1 - y0) >= abs(x1 - x0)
    (a0, b0, a1, b1), length, depth = ((y0, x0, y1, x1), height, width) if steep else ((x0, y0, x1, y1), width, height)
    low = max(0, int(np.ceil(min(a0, a1) - _ON_PATH)))
    high = min(length - 1, int(np.floor(max(a0, a1) + _ON_PATH)))
    a = np.arange(low, high + 1)
    b = np.full(len(a), b0) if a1 == a0 else b0 + (np.clip(a, min(a0, a1), max(a0, a1)) - a0) * ((b1 - b0) / (a1 - a0))
    nearest = np.rint(b)
    on = (np.abs(b - nearest) <= _ON_PATH) & (nearest >= 0) & (nearest < depth)
    at = nearest[on].astype(int)
    if steep:
        path[at, a[on]] = True
    else:
        path[a[on], at] = True
