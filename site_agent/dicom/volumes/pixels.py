"""A frame's pixels → numbers in the modality's units.

pydicom decodes (native and RLE itself, JPEG, JPEG-LS and JPEG 2000 through python-gdcm), one frame at a time. Then the
frame's own slope and intercept, or the object's Modality LUT. MONOCHROME1 (the smallest value is white) is turned
around within the range of the stored bits, so that bright tissue has large values as in MONOCHROME2; not for CT and
PET, whose units are fixed. Not applied: VOI windows, Philips' private scale, Real World Value Mappings; padding
(0028,0120) stays what it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.extent import read_extent, require_exact
from site_agent.dicom.volumes import mosaic
from site_agent.dicom.volumes.frames import Frame, read_whole

FIXED_UNITS = frozenset({"CT", "PT"})


class Pixels:
    """The pixels of a series' objects. Holds one decoded image at a time (a mosaic is asked for once a tile)."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self._objects = objects
        self._held: tuple[tuple[int, int], npt.NDArray[np.float64]] | None = None

    def read_frame(self, frame: Frame) -> npt.NDArray[np.float64]:
        """One frame, (rows, columns), rescaled.

        Raises:
            Refused: UNDECODABLE_PIXELS: cannot be decoded, or is of another size than it says. NOT_FINITE.
        """
        index = 0 if frame.tile else frame.number - 1
        if self._held is None or self._held[0] != (frame.source, index):
            self._held = (frame.source, index), self._decode_frame(frame, index)
        image = self._held[1]
        if frame.tile:
            image = image[mosaic.tile_slices(frame.tile, frame.number - 1, *image.shape)]
        if image.shape != (frame.plane.rows, frame.plane.columns):
            raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "the pixels are of another size than the image says")
        return image

    def _decode_frame(self, frame: Frame, index: int) -> npt.NDArray[np.float64]:
        from pydicom.pixels import apply_modality_lut, get_decoder

        obj = self._objects[frame.source]
        if "PixelData" in obj:
            require_exact(obj, read_extent(obj))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # padding behind the pixels and the like: what matters is an error
                decoder = get_decoder(obj.file_meta.TransferSyntaxUID)
                stored, _ = decoder.as_array(obj, index=index, raw=True)
                if _is_inverted(obj):
                    stored = _invert_stored(stored, obj)
                if frame.scale is None:
                    stored = apply_modality_lut(stored, obj)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - a decoder may raise anything, and its words may quote the object
            raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "the pixels cannot be decoded") from None
        slope, intercept = frame.scale or (1.0, 0.0)
        image = np.asarray(stored, dtype=np.float64) * slope + intercept
        if not np.isfinite(image).all():
            raise ObjectRefused(Reason.NOT_FINITE, "the pixels hold NaN or infinity")
        return np.asarray(image, dtype=np.float64)


def _is_inverted(obj: Object) -> bool:
    return obj.get("PhotometricInterpretation") == "MONOCHROME1" and obj.get("Modality") not in FIXED_UNITS


def _invert_stored(stored: npt.NDArray[Any], obj: Object) -> npt.NDArray[Any]:
    """The smallest value that the stored bits can hold becomes the largest, and so on."""
    if stored.dtype.kind == "f":
        return np.asarray(-stored)
    bits = read_whole(obj, "BitsStored") or stored.dtype.itemsize * 8
    ends = -1 if read_whole(obj, "PixelRepresentation") else 2**bits - 1
    return np.asarray(ends - stored.astype(np.int64))
