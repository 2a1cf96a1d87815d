"""Enhanced multi-frame objects → frames: functional groups, dimensions, concatenations (PS3.3, C.7.6.16, C.7.6.17).

What a frame says is looked up in its per-frame functional groups, then in the shared ones; never at the object's top
level, except for the frame of reference. Real World Value Mappings are not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from messages.reasons import Reason
from site_agent.dicom.base import Object, Refused
from site_agent.dicom.volumes.frames import Frame, Mark, diffusion, hints, kind, number, numbers, scale, size, whole
from site_agent.dicom.volumes.geometry import Tolerances, plane

SPATIAL = frozenset({0x00209056, 0x00209057, 0x00200032, 0x00209113, 0x00200037, 0x00209116})
"""Dimension pointers that say where a frame lies: stack, position in the stack, plane position and orientation."""
FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def enhanced(obj: Object) -> bool:
    """Whether an object describes its frames by functional groups."""
    return bool(obj.get("PerFrameFunctionalGroupsSequence"))


def frames(obj: Object, source: int, tolerances: Tolerances) -> list[Frame]:
    """Every frame of an enhanced object.

    Raises:
        Refused: MISSING_GEOMETRY: a frame does not say where it lies, or fewer frames are described than there are.
    """
    described = obj.PerFrameFunctionalGroupsSequence
    count = whole(obj, "NumberOfFrames") or 1
    if len(described) != count:
        raise Refused(Reason.MISSING_GEOMETRY, f"{len(described)} of {count} frames say where they lie")
    shared = (obj.get("SharedFunctionalGroupsSequence") or [{}])[0]
    pointers = [item.get("DimensionIndexPointer") for item in obj.get("DimensionIndexSequence") or ()]
    return [
        _frame(obj, _Groups(groups, shared), source, index + 1, pointers, tolerances)
        for index, groups in enumerate(described)
    ]


def concatenated(objects: Sequence[Object]) -> tuple[int, int] | None:
    """Parts that are there and parts in all, where the objects are one concatenation (PS3.3, C.7.6.16.2.2.4)."""
    names = {str(obj.get("ConcatenationUID") or "") for obj in objects}
    total = whole(objects[0], "InConcatenationTotalNumber")
    if len(names) != 1 or "" in names or total is None:
        return None
    return len({whole(obj, "InConcatenationNumber") for obj in objects}), total


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


def _frame(
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
        plane(
            *size(obj),
            numbers(groups["PlanePositionSequence"], "ImagePositionPatient", 3),
            numbers(groups["PlaneOrientationSequence"], "ImageOrientationPatient", 6),
            numbers(measures, "PixelSpacing", 2),
            tolerances,
        ),
        number(measures, "SpacingBetweenSlices"),
        number(measures, "SliceThickness"),
        str(obj.get("FrameOfReferenceUID") or ""),
        marks=(
            ("kind", (*kind(frame_type.get("FrameType")), str(frame_type.get("ComplexImageComponent") or ""))),
            ("echo", (0, round(number(groups["MREchoSequence"], "EffectiveEchoTime") or 0.0, 1))),
            ("time", (whole(content, "TemporalPositionIndex") or 0, 0, 0)),
            (
                "diffusion",
                diffusion(
                    number(weighting, "DiffusionBValue"),
                    numbers(gradient, "DiffusionGradientOrientation", 3),
                ),
            ),
            ("stack", str(content.get("StackID") or "")),
        ),
        hints=(
            *_dimensions(content.get("DimensionIndexValues"), pointers),
            *hints(
                ("acquisition", whole(content, "FrameAcquisitionNumber")),
                ("trigger", number(groups["CardiacSynchronizationSequence"], "NominalCardiacTriggerDelayTime")),
                ("time", number(groups["TemporalPositionSequence"], "TemporalPositionTimeOffset")),
            ),
        ),
        instance=whole(obj, "InstanceNumber"),
        scale=scale(groups["PixelValueTransformationSequence"]),
    )


def _dimensions(values: Any, pointers: Sequence[object]) -> tuple[Mark, ...]:
    """A frame's index in each dimension that is not a place, and in all of them together."""
    if values is None:
        return ()
    indices = [int(v) for v in ([values] if isinstance(values, int) else values)]
    if len(indices) != len(pointers):
        return ()
    other = [(n, v) for n, (pointer, v) in enumerate(zip(pointers, indices, strict=True), 1) if pointer not in SPATIAL]
    single = tuple((f"dimension {n}", v) for n, v in other)
    return (*single, ("dimensions", tuple(v for _, v in other))) if len(other) > 1 else single
