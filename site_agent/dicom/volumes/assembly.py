"""The objects of one series → its volumes, or the reason why not.

Split (`parts`), each part laid on a grid and checked (`geometry`), the ends checked against what the source and the
scanner counted, then decoded frame by frame (`pixels`) into one float32 array. Nothing is interpolated, averaged or
filled in.

highdicom's `get_volume_from_series` does the middle of this (sort, check spacing and tilt, decode, rescale) for
single-frame series that hold one volume, and the tests take it as an oracle there. It does not split a series, reads no
mosaic, knows nothing of what was announced, and says by one ValueError's text what it met; so it is not what runs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused, Volume
from site_agent.dicom.volumes.frames import Frame, read_whole
from site_agent.dicom.volumes.geometry import Grid, Tolerances, make_regular_grid
from site_agent.dicom.volumes.multiframe import count_concatenated, is_enhanced
from site_agent.dicom.volumes.parts import VolumePart, split_parts
from site_agent.dicom.volumes.pixels import Pixels
from site_agent.dicom.volumes.slices import read_slices

__all__ = ["Tolerances", "build_volumes"]

BLOCK = 16
"""Slices that are put into the volume together: 16 float32 fill a cache line of its innermost axis."""


def build_volumes(
    objects: Sequence[Object], *, announced: int | None = None, tolerances: Tolerances | None = None
) -> list[Volume]:
    """Every volume of one series.

    Several where it holds several echoes, times, kinds of image (magnitude, phase), stacks or geometries; each says
    what it is in `part`, and all are whole, or the series is refused. Objects that came twice count once.

    Args:
        objects: of one series, in any order.
        announced: how many objects the source says the series has.

    Raises:
        Refused: INCOMPLETE_SERIES, MISSING_SLICES, DUPLICATE_SLICES, IRREGULAR_SPACING, TILTED, MIXED_GEOMETRY,
            MISSING_GEOMETRY, TOO_FEW_SLICES, UNSUPPORTED_IMAGE, UNDECODABLE_PIXELS, NOT_FINITE. Nothing else, whatever
            the objects hold, but MemoryError.
    """
    tolerances = tolerances or Tolerances()
    try:
        objects = _drop_repeated(objects)
        described = [frame for source, obj in enumerate(objects) for frame in read_slices(obj, source, tolerances)]
    except (ObjectRefused, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything for malformed elements, and quotes them
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an object whose elements cannot be read") from None
    if announced is not None and len(objects) < announced:
        raise ObjectRefused(
            Reason.INCOMPLETE_SERIES, f"{len(objects)} of the {announced} images that the source counts"
        )
    parts = split_parts(described, _agreed_number(objects, "NumberOfTemporalPositions"), tolerances)
    if sum(f.plane.rows * f.plane.columns for f in described) > tolerances.most_voxels:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"more than {tolerances.most_voxels} voxels")
    grids = [_make_grid(part, tolerances) for part in parts]
    counted = _ends_are_counted(objects, parts, announced)
    pixels, series = Pixels(objects), str(objects[0].get("SeriesInstanceUID", ""))
    volumes = []
    for part, grid in zip(parts, grids, strict=True):
        ordered = [part.frames[k] for k in grid.order]
        volumes.append(
            Volume(
                _read_voxels(ordered, pixels),
                grid.affine,
                ordered[0].frame_of_reference,
                series,
                tuple((frame.sop, frame.number) for frame in ordered),
                part.name,
                counted,
            )
        )
    return volumes


def _drop_repeated(objects: Sequence[Object]) -> list[Object]:
    """Each object once, by SOP Instance UID, in the order of the UIDs.

    Raises:
        Refused: DUPLICATE_SLICES: different pixels under one UID. MIXED_GEOMETRY: objects of several series.
    """
    if not objects:
        raise ObjectRefused(Reason.TOO_FEW_SLICES, "no images")
    if len({str(obj.get("SeriesInstanceUID", "")) for obj in objects}) > 1:
        raise ObjectRefused(Reason.MIXED_GEOMETRY, "images of several series")
    found: dict[str, Object] = {}
    for obj in objects:
        uid = str(obj.get("SOPInstanceUID", ""))
        if uid in found and _digest_of(found[uid]) != _digest_of(obj):
            raise ObjectRefused(Reason.DUPLICATE_SLICES, "two different images bear one SOP Instance UID")
        found.setdefault(uid, obj)
    return [found[uid] for uid in sorted(found)]


def _digest_of(obj: Object) -> bytes:
    return sha256(bytes(obj.get("PixelData") or b"")).digest()


def _make_grid(part: VolumePart, tolerances: Tolerances) -> Grid:
    first = part.frames[0]
    return make_regular_grid(
        [frame.plane for frame in part.frames], tolerances, between=first.between, thickness=first.thickness
    )


def _ends_are_counted(objects: Sequence[Object], parts: Sequence[VolumePart], announced: int | None) -> bool:
    """Whether a count of someone else's says that no slice is missing at the ends.

    Such counts are the source's (`announced`), Images in Acquisition (0020,1002; an acquisition may be the series, one
    of its volumes, or several series), and a multi-frame object's own, which arrives whole or not at all.

    Raises:
        Refused: INCOMPLETE_SERIES.
    """
    if is_enhanced(objects[0]):
        there = count_concatenated(objects)
        if there is not None and there[0] < there[1]:
            raise ObjectRefused(Reason.INCOMPLETE_SERIES, f"{there[0]} of {there[1]} parts of a concatenation")
        return len(objects) == 1 or there is not None or announced == len(objects)
    if all(frame.tile for part in parts for frame in part.frames):
        return True  # a mosaic holds its whole volume
    count = _agreed_number(objects, "ImagesInAcquisition") or 0
    if count > len(objects):
        if announced == len(objects) and count % len(objects) == 0:
            return False  # the source has all, and the acquisition gave other series too; or just half of it is lost
        raise ObjectRefused(Reason.INCOMPLETE_SERIES, f"{len(objects)} of the {count} images that the scanner counts")
    return announced == len(objects) or count == len(objects) or count == len(parts[0].frames)


def _agreed_number(objects: Sequence[Object], keyword: str) -> int | None:
    """A whole number that all objects say alike."""
    said = {read_whole(obj, keyword) for obj in objects}
    return said.pop() if len(said) == 1 else None


def _read_voxels(ordered: Sequence[Frame], pixels: Pixels) -> npt.NDArray[np.float32]:
    """float32 (columns, rows, slices), C-contiguous. Allocated once the first slice has proved its size."""
    first, voxels = pixels.read_frame(ordered[0]), None
    block = np.empty((BLOCK, *first.shape), dtype=np.float32)
    for start in range(0, len(ordered), BLOCK):
        together = ordered[start : start + BLOCK]
        for k, frame in enumerate(together):
            block[k] = pixels.read_frame(frame)
        if voxels is None:
            voxels = np.empty((first.shape[1], first.shape[0], len(ordered)), dtype=np.float32)
        voxels[:, :, start : start + len(together)] = block[: len(together)].transpose(2, 1, 0)
    assert voxels is not None  # noqa: S101 - `make_regular_grid` refused a part without frames
    return voxels
