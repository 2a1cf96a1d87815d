"""PNG and JPEG files as images of one slice: (X, Y, 1), x from left to right, y from top to bottom.

A picture does not say how large its pixels are: one counts as a millimetre. Colour is made grey as Pillow does it
(ITU-R BT.601). What the picture's EXIF says of its orientation is heeded.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from messages.reasons import Reason
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.nifti import NiftiFile, require_room
from site_agent.datasets.opening import open_file, show_name

FORMATS = ("PNG", "JPEG")
_TURN, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's orientation (Exif 2.3, 4.6.4), and those that turn a picture by a quarter."""
_EXACT = ("L", "I;16", "I", "F")
"""Modes whose numbers are kept as they are."""


def read_picture(path: Path, grid: tuple[int, ...] | None = None, *, mask: bool = False) -> NiftiFile:
    """Read one picture, as a volume of one slice.

    Args:
        grid: the shape that it has to have. mask: it is a label map: a palette's colours stand for its integers (as
            PASCAL VOC has it), unless they are grey.

    Raises:
        CaseError: UNREADABLE, UNSUPPORTED_IMAGE (several frames, too large), SHAPE_MISMATCH (`grid`), OUT_OF_MEMORY.
    """
    name = show_name(path.name)
    with hold_faults(name):
        try:
            with open_file(path) as file, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # require_room judges the size
                with Image.open(file, formats=FORMATS) as opened:
                    require_room((*opened.size, 1), np.dtype(np.float32), name)
                    if getattr(opened, "n_frames", 1) != 1:
                        raise CaseError(Reason.UNSUPPORTED_IMAGE, "holds several frames", where=name)
                    upright = ImageOps.exif_transpose(opened)
                    voxels = _list_indices(upright) if mask and _is_coloured(upright) else _to_numbers(upright)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            what = f"cannot be read as PNG or JPEG ({type(error).__name__})"
            raise CaseError(Reason.UNREADABLE, what, where=name) from None
    shape = (voxels.shape[1], voxels.shape[0], 1)
    if grid is not None and shape != grid:
        raise CaseError(Reason.SHAPE_MISMATCH, f"shape {shape}, the label's is {grid}", where=name)
    turned = np.ascontiguousarray(voxels.T)[..., None]
    return NiftiFile(name, shape, np.eye(4), False, turned, 1.0, 0.0)


def read_picture_grid(path: Path) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """Shape and affine out of the header alone; raises as `read_picture`."""
    name = show_name(path.name)
    with hold_faults(name):
        try:
            with open_file(path) as file, Image.open(file, formats=FORMATS) as opened:
                size = opened.size[::-1] if opened.getexif().get(_TURN, 1) in _SIDEWAYS else opened.size
                return (*size, 1), np.eye(4)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            what = f"cannot be read as PNG or JPEG ({type(error).__name__})"
            raise CaseError(Reason.UNREADABLE, what, where=name) from None


def _is_coloured(picture: Image.Image) -> bool:
    """Whether a picture has a palette, and in it a colour that is no grey."""
    if picture.mode != "P":
        return False
    colours = np.asarray(picture.convert("RGB"))
    return bool((colours != colours[..., :1]).any())


def _list_indices(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture, dtype=np.uint8)


def _to_numbers(picture: Image.Image) -> npt.NDArray[np.uint8] | npt.NDArray[np.int32] | npt.NDArray[np.float32]:
    """(rows, columns). A picture of one bit holds 0 and 1; of a palette, its colours made grey."""
    if picture.mode == "1":
        return np.asarray(picture, dtype=np.uint8)
    if picture.mode not in _EXACT:
        return np.asarray(picture.convert("L"))
    numbers = np.asarray(picture)
    return numbers.astype(np.int32) if numbers.dtype.kind in "iu" and numbers.dtype != np.uint8 else numbers
