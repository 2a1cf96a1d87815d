"""Siemens mosaic: a volume's slices as tiles of one image.

n slices lie, row by row, in a square of ceil(√n) × ceil(√n) tiles. The image's position is that of a plane as large as
the whole mosaic around the same centre, so the tiles' own first pixel lies half the difference further in; the tiles
follow each other along the CSA header's SliceNormalVector, Spacing Between Slices apart. Source: nibabel's description
of the format (nibabel.nicom, "Siemens mosaic format"), and dcm2niix, with whose volumes the tests compare.

The CSA header holds the whole protocol and does not pass the door. The two things needed of it, count and direction,
are taken down before (`read_layout`) and put into the cleaned object under a private creator of our own
(`keep_layout`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.volumes.geometry import Plane

CREATOR = "KONSIL MOSAIC"
GROUP, ELEMENT = 0x0071, 0x01
"""(0071,xx01) LO, four values: number of tiles and the three direction cosines of their order."""
SIEMENS = "SIEMENS MR HEADER"


@dataclass(frozen=True, slots=True)
class MosaicLayout:
    """How many tiles hold a slice, and the unit vector (LPS) along which they follow each other."""

    images: int
    normal: tuple[float, float, float]

    @property
    def side(self) -> int:
        """Tiles along an edge of the square."""
        return int(np.ceil(np.sqrt(self.images)))


def read_layout(obj: Object) -> MosaicLayout | None:
    """How a mosaic is laid out; None for an object that is none. Reads our own note, else the scanner's header.

    Raises:
        Refused: UNSUPPORTED_IMAGE: a mosaic that does not say how many slices it holds or in which direction.
    """
    if "MOSAIC" not in {str(part).upper() for part in _read_several(obj.get("ImageType"))}:
        return None
    layout = _read_note(obj) or _read_scanners(obj)
    if layout is None:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "a mosaic that does not say how its slices are laid out")
    return layout


def keep_layout(obj: Object, layout: MosaicLayout) -> None:
    """Writes a mosaic's layout into an object (a cleaned one) as private data of our own: numbers only."""
    block = obj.private_block(GROUP, CREATOR, create=True)
    block.add_new(ELEMENT, "LO", [str(layout.images), *(f"{v:.12g}" for v in layout.normal)])


def tile_slices(layout: MosaicLayout, number: int, rows: int, columns: int) -> tuple[slice, slice]:
    """Rows and columns of a mosaic of (rows, columns) pixels that slice `number` (from 0) takes."""
    height, width = rows // layout.side, columns // layout.side
    down, across = divmod(number, layout.side)
    return slice(down * height, (down + 1) * height), slice(across * width, (across + 1) * width)


def tile_planes(whole: Plane, layout: MosaicLayout, spacing: float | None) -> list[Plane]:
    """Where each slice lies, in the tiles' order.

    Args:
        whole: the mosaic's own plane, as its header has it.
        spacing: Spacing Between Slices (0018,0088), millimetres.

    Raises:
        Refused: MISSING_GEOMETRY: no spacing, tiles that do not divide the image, or a direction beside its normal.
    """
    if spacing is None or not np.isfinite(spacing) or spacing <= 0:
        raise ObjectRefused(Reason.MISSING_GEOMETRY, "a mosaic without spacing between its slices")
    if whole.rows % layout.side or whole.columns % layout.side:
        raise ObjectRefused(
            Reason.MISSING_GEOMETRY, f"{whole.rows} × {whole.columns} pixels do not divide into {layout.side}² tiles"
        )
    normal = np.asarray(layout.normal)
    if abs(abs(float(normal @ whole.normal)) - 1) > 1e-3:
        raise ObjectRefused(
            Reason.MISSING_GEOMETRY, "a mosaic whose slices do not follow each other along their normal"
        )
    direction = whole.normal * np.sign(normal @ whole.normal)
    height, width = whole.rows // layout.side, whole.columns // layout.side
    corner = (
        np.asarray(whole.position)
        + np.asarray(whole.row) * whole.spacing[1] * (whole.columns - width) / 2
        + np.asarray(whole.column) * whole.spacing[0] * (whole.rows - height) / 2
    )
    found = []
    for number in range(layout.images):
        x, y, z = (float(v) for v in corner + direction * spacing * number)
        found.append(Plane(height, width, (x, y, z), whole.row, whole.column, whole.spacing))
    return found


def _read_several(value: Any) -> list[Any]:
    """Values of an element of the object, of whatever type pydicom gives them."""
    if value is None:
        return []
    return [value] if isinstance(value, str | bytes) else list(value)


def _read_note(obj: Object) -> MosaicLayout | None:
    try:
        value = obj.get_private_item(GROUP, ELEMENT, CREATOR).value
    except Exception:  # noqa: BLE001 - not there (KeyError), or malformed in any way
        return None
    words = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else list(value)
    return _make_layout(words[0], words[1:])


def _read_scanners(obj: Object) -> MosaicLayout | None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # nibabel calls its DICOM readers experimental; this one parses CSA
        from nibabel.nicom import csareader

    try:
        header = csareader.get_csa_header(obj, "image")
        normal = None if header is None else csareader.get_slice_normal(header)
        images = None if header is None else csareader.get_n_mosaic(header)
    except Exception:  # noqa: BLE001 - the header is private and may be anything
        return None
    if not images:
        try:
            images = obj.get_private_item(0x0019, 0x0A, SIEMENS).value
        except Exception:  # noqa: BLE001 - as above, or not there (KeyError)
            return None
    return None if normal is None else _make_layout(images, list(normal))


def _make_layout(images: Any, normal: Sequence[Any]) -> MosaicLayout | None:
    """None where count and direction are no numbers."""
    try:
        count = int(images)
        x, y, z = (float(v) for v in normal)
    except (TypeError, ValueError):
        return None
    length = float(np.linalg.norm((x, y, z)))
    if count < 1 or not np.isfinite(length) or abs(length - 1) > 1e-3:
        return None
    return MosaicLayout(count, (x / length, y / length, z / length))
