"""Enhanced multi-frame objects → frames: functional groups, dimensions, concatenations (PS3.3, C.7.6.16, C.7.6.17).

What a frame says is looked up in its per-frame functional groups, then in the shared ones; never at the object's top
level, except for the frame of reference. Real World Value Mappings are not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.volumes.frames import (
    Frame,
    Mark,
    keep_said,
    read_kind,
    read_number,
    read_numbers,
    read_scale,
    read_size,
    read_whole,
    sort_diffusion,
)
from site_agent.dicom.volumes.geometry import Tolerances, make_plane

SPATIAL = frozenset({0x00209056, 0x00209057, 0x00200032, 0x00209113, 0x00200037, 0x00209116})
"""Dimension pointers that say where a frame lies: stack, position in the stack, plane position and orientation."""
FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def is_enhanced(obj: Object) -> bool:
    """Whether an object describes its frames by functional groups."""
    return bool(obj.get("PerFrameFunctionalGroupsSequence"))


def read_frames(obj: Object, source: int, tolerances: Tolerances) -> list[Frame]:
    """Every frame of an enhanced object.

    Raises:
        Refused: MISSING_GEOMETRY: a frame does not say where it lies, or fewer frames are described than there are.
    """
    described = obj.PerFrameFunctionalGroupsSequence
    count = read_whole(obj, "NumberOfFrames") or 1
    if len(described) != count:
        raise ObjectRefused(Reason.MISSING_GEOMETRY, f"{len(described)} of {count} frames say where they lie")
    shared = (obj.get("SharedFunctionalGroupsSequence") or [{}])[0]
    pointers = [item.get("DimensionIndexPointer") for item in obj.get("DimensionIndexSequence") or ()]
    return [
        _read_frame(obj, _Groups(groups, shared), source, index + 1, pointers, tolerances)
        for index, groups in enumerate(described)
    ]


def count_concatenated(objects: Sequence[Object]) -> tuple[int, int] | None:
    """Parts that are there and parts in all, where the objects are one concatenation (PS3.3, C.7.6.16.2.2.4)."""
    names = {str(obj.get("ConcatenationUID") or "") for obj in objects}
    total = read_whole(objects[0], "InConcatenationTotalNumber")
    if len(names) != 1 or "" in names or total is None:
        return None
    return len({read_whole(obj, "InConcatenationNumber") for obj in objects}), total


class _Groups:
    """A frame's functional groups: its own before the shared ones."""

    def __init__(self, own: Object, shared: Object) -> None:
        self._own, self._shared = own, shared

    def __getitem__(self, keyword: str) -> Object:
        """The first item of a functional group's sequence; {} where there is none."""
        for groups in (self._own, self._shared):
            items = groups.get(keyword)
            if items:
                return items[0]
        return {}


def _read_frame(
    obj: Object,
    groups: _Groups,
    source: int,
    index: int,
    pointers: Sequence[object],
    tolerances: Tolerances,
) -> Frame:
    measures, content = groups["PixelMeasuresSequence"], groups["FrameContentSequence"]
    frame_type: Object = next((groups[name] for name in FRAME_TYPES if groups[name]), {})
    weighting = groups["MRDiffusionSequence"]
    gradient = (weighting.get("DiffusionGradientDirectionSequence") or [{}])[0]
    return Frame(
        source,
        str(obj.get("SOPInstanceUID", "")),
        index,
        make_plane(
            *read_size(obj),
            read_numbers(groups["PlanePositionSequence"], "ImagePositionPatient", 3),
            read_numbers(groups["PlaneOrientationSequence"], "ImageOrientationPatient", 6),
            read_numbers(measures, "PixelSpacing", 2),
            tolerances,
        ),
        read_number(measures, "SpacingBetweenSlices"),
        read_number(measures, "SliceThickness"),
        str(obj.get("FrameOfReferenceUID") or ""),
        marks=(
            ("kind", (*read_kind(frame_type.get("FrameType")), str(frame_type.get("ComplexImageComponent") or ""))),
            ("echo", (0, read_number(groups["MREchoSequence"], "EffectiveEchoTime") or 0.0)),
            ("time", (read_whole(content, "TemporalPositionIndex") or 0, 0, 0)),
            (
                "diffusion",
                sort_diffusion(
                    read_number(weighting, "DiffusionBValue"),
                    read_numbers(gradient, "DiffusionGradientOrientation", 3),
                ),
            ),
            ("stack", str(content.get("StackID") or "")),
        ),
        hints=(
            *_read_dimensions(content.get("DimensionIndexValues"), pointers),
            *keep_said(
                ("acquisition", read_whole(content, "FrameAcquisitionNumber")),
                ("trigger", read_number(groups["CardiacSynchronizationSequence"], "NominalCardiacTriggerDelayTime")),
                ("time", read_number(groups["TemporalPositionSequence"], "TemporalPositionTimeOffset")),
            ),
        ),
        instance=read_whole(obj, "InstanceNumber"),
        scale=read_scale(groups["PixelValueTransformationSequence"]),
    )


def _read_dimensions(values: Any, pointers: Sequence[object]) -> tuple[Mark, ...]:
    """A frame's index in each dimension that is not a place, and in all of them together."""
    if values is None:
        return ()
    indices = [int(v) for v in ([values] if isinstance(values, int) else values)]
    if len(indices) != len(pointers):
        return ()
    other = [(n, v) for n, (pointer, v) in enumerate(zip(pointers, indices, strict=True), 1) if pointer not in SPATIAL]
    single = tuple((f"dimension {n}", v) for n, v in other)
    return (*single, ("dimensions", tuple(v for _, v in other))) if len(other) > 1 else single
