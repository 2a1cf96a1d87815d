"""One object → its frames: where each lies, what marks it apart, how its values are scaled. Reads no pixels.

A frame is one slice: a single-frame object, one frame of a multi-frame object (`multiframe`), or one tile of a mosaic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.volumes import mosaic
from site_agent.dicom.volumes.geometry import Plane, Tolerances, make_plane

Mark = tuple[str, object]
"""A name from a closed list and a value that is hashable and sortable among its like."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice.

    Attributes:
        source: which of the series' objects it is in, from 0.
        sop: that object's SOP Instance UID.
        number: its frame number there, from 1; of a mosaic, its tile's.
        tile: the mosaic's layout, where it is a tile.
        plane: where it lies.
        between, thickness: Spacing Between Slices (of a 3D acquisition else its thickness) and Slice Thickness,
            millimetres, where they are said.
        frame_of_reference: Frame of Reference UID, "" where there is none.
        marks: what keeps frames apart in any case: kind of image, echo, time, diffusion, stack.
        hints: what may tell apart frames that lie at one place, in the order in which it is tried.
        instance: Instance Number.
        scale: slope and intercept; None where the object has a Modality LUT instead.
    """

    source: int
    sop: str
    number: int
    plane: Plane
    between: float | None
    thickness: float | None
    frame_of_reference: str
    marks: tuple[Mark, ...]
    hints: tuple[Mark, ...]
    instance: int | None
    scale: tuple[float, float] | None
    tile: mosaic.MosaicLayout | None = None


def read_frames(obj: Object, source: int, tolerances: Tolerances) -> list[Frame]:
    """The slices of an object that says once for all of it where it lies: one, or a mosaic's tiles.

    Raises:
        Refused: MISSING_GEOMETRY: it does not say where it lies.
    """
    if (read_whole(obj, "NumberOfFrames") or 1) > 1:
        raise ObjectRefused(Reason.MISSING_GEOMETRY, "several frames in one object that does not say where each lies")
    layout = mosaic.read_layout(obj)
    # Each mosaic is a volume of its own, and they follow each other in time.
    shot = (0, 0) if layout is None else (read_whole(obj, "InstanceNumber") or 0, source)
    single = Frame(
        source,
        str(obj.get("SOPInstanceUID", "")),
        1,
        make_plane(
            *read_size(obj),
            read_numbers(obj, "ImagePositionPatient", 3),
            read_numbers(obj, "ImageOrientationPatient", 6),
            read_numbers(obj, "PixelSpacing", 2),
            tolerances,
        ),
        _spacing_between(obj),
        read_number(obj, "SliceThickness"),
        str(obj.get("FrameOfReferenceUID") or ""),
        marks=(
            ("kind", read_kind(obj.get("ImageType"))),
            ("echo", (read_whole(obj, "EchoNumbers") or 0, read_number(obj, "EchoTime") or 0.0)),
            ("time", (read_whole(obj, "TemporalPositionIdentifier") or 0, *shot)),
            ("diffusion", _read_diffusion(obj)),
            ("stack", str(obj.get("StackID") or "")),
        ),
        hints=keep_said(
            ("acquisition", read_whole(obj, "AcquisitionNumber")),
            ("inversion", read_number(obj, "InversionTime")),
            ("flip angle", read_number(obj, "FlipAngle")),
            ("trigger", read_number(obj, "TriggerTime")),
        ),
        instance=read_whole(obj, "InstanceNumber"),
        scale=None if obj.get("ModalityLUTSequence") else read_scale(obj),
    )
    return [single] if layout is None else _tile_frames(single, layout, read_number(obj, "SpacingBetweenSlices"))


def require_greyscale(obj: Object) -> None:
    """Raises Refused (UNSUPPORTED_IMAGE) for what is no greyscale image whose samples fill their bits from below."""
    samples, shown = read_whole(obj, "SamplesPerPixel"), str(obj.get("PhotometricInterpretation", ""))
    if samples != 1 or shown not in ("MONOCHROME1", "MONOCHROME2"):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "not a greyscale image")
    if shown == "MONOCHROME1" and obj.get("ModalityLUTSequence"):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "MONOCHROME1 with a modality LUT: which comes first is not clear")
    allocated, stored, high = (
        read_whole(obj, "BitsAllocated"),
        read_whole(obj, "BitsStored"),
        read_whole(obj, "HighBit"),
    )
    if allocated not in (8, 16, 32, 64) or (stored is not None and high is not None and high != stored - 1):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"{stored} of {allocated} bits up to bit {high}")


def read_size(obj: Object) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns = read_whole(obj, "Rows"), read_whole(obj, "Columns")
    if not rows or not columns:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an image without rows or columns")
    return rows, columns


def read_scale(obj: Object) -> tuple[float, float]:
    """Rescale slope and intercept; 1 and 0 where they are not said.

    Raises:
        Refused: UNSUPPORTED_IMAGE: a slope of 0, or values that are no numbers.
    """
    said = [name for name in ("RescaleSlope", "RescaleIntercept") if obj.get(name) not in (None, "")]
    slope, intercept = read_number(obj, "RescaleSlope"), read_number(obj, "RescaleIntercept")
    if slope == 0 or (slope is None and "RescaleSlope" in said) or (intercept is None and "RescaleIntercept" in said):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an image whose rescale slope and intercept are no scale")
    return 1.0 if slope is None else slope, 0.0 if intercept is None else intercept


def read_kind(value: Any) -> tuple[str, ...]:
    """Image Type or Frame Type as a tuple of upper-case words."""
    if value is None:
        return ()
    words = [value] if isinstance(value, str) else list(value)
    return tuple(str(word).strip().upper() for word in words)


def sort_diffusion(b: float | None, direction: tuple[float, ...] | None) -> tuple[float, ...]:
    """b-value (s/mm²) and gradient direction as one sortable value; () where none is said."""
    return () if b is None else (round(b, 1), *(round(v, 3) for v in direction or ()))


def keep_said(*named: tuple[str, object]) -> tuple[Mark, ...]:
    """Those that are said."""
    return tuple((name, value) for name, value in named if value is not None)


def read_numbers(obj: Object, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers of an attribute; None where it is absent, empty, of other length or not numbers."""
    try:
        value = obj.get(keyword)
        found = () if value is None else tuple(float(v) for v in value)
    except Exception:  # noqa: BLE001 - pydicom raises anything for a malformed value, and quotes it
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def read_number(obj: Object, keyword: str) -> float | None:
    """One finite number of an attribute, the first where it has several; None where there is none."""
    try:
        value = obj.get(keyword)
        if not isinstance(value, str | bytes) and hasattr(value, "__len__"):
            value = value[0] if len(value) else None
        found = float("nan") if value is None else float(value)
    except Exception:  # noqa: BLE001 - as in `read_numbers`
        return None
    return found if np.isfinite(found) else None


def read_whole(obj: Object, keyword: str) -> int | None:
    """One whole number of an attribute, as `read_number`."""
    found = read_number(obj, keyword)
    return None if found is None else int(found)


def _read_diffusion(obj: Object) -> tuple[float, ...]:
    """As the standard says it, or as Siemens does in private elements that the door lets pass."""
    b, direction = read_number(obj, "DiffusionBValue"), read_numbers(obj, "DiffusionGradientOrientation", 3)
    if b is None:
        try:
            block = obj.private_block(0x0019, mosaic.SIEMENS)
            b = float(block[0x0C].value)
            direction = tuple(float(v) for v in block[0x0E].value) if 0x0E in block else None
        except Exception:  # noqa: BLE001 - there is none (KeyError), or it is malformed in any way
            return ()
    return sort_diffusion(b, direction)


def _spacing_between(obj: Object) -> float | None:
    """Spacing Between Slices; the thickness where a 3D acquisition does not say it, since its slices leave no gaps."""
    said = read_number(obj, "SpacingBetweenSlices")
    if said is None and obj.get("MRAcquisitionType") == "3D" and "ORIGINAL" in read_kind(obj.get("ImageType")):
        return read_number(obj, "SliceThickness")
    return said


def _tile_frames(single: Frame, layout: mosaic.MosaicLayout, spacing: float | None) -> list[Frame]:
    """A mosaic's slices."""
    return [
        replace(single, number=k + 1, plane=where, tile=layout)
        for k, where in enumerate(mosaic.tile_planes(single.plane, layout, spacing))
    ]
