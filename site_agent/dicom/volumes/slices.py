"""One object → its slices, however it describes them."""

from __future__ import annotations

from site_agent.dicom.base import Object
from site_agent.dicom.volumes import frames, multiframe
from site_agent.dicom.volumes.frames import Frame, require_greyscale
from site_agent.dicom.volumes.geometry import Tolerances


def read_slices(obj: Object, source: int, tolerances: Tolerances) -> list[Frame]:
    """Every slice that an object holds.

    Raises:
        Refused: UNSUPPORTED_IMAGE: not a greyscale image. MISSING_GEOMETRY: it does not say where it lies.
    """
    require_greyscale(obj)
    if multiframe.is_enhanced(obj):
        return multiframe.read_frames(obj, source, tolerances)
    return frames.read_frames(obj, source, tolerances)
