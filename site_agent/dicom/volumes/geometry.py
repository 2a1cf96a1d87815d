"""Where images lie, and whether a pile of them is a right-angled, evenly spaced grid. Pure: numbers in, numbers out.

Coordinates are DICOM's patient system (LPS, millimetres; PS3.3, C.7.6.2.1.1) until `Grid.affine`, which is RAS+ as in
NIfTI. The normal is row direction × column direction, so that the voxel axes (along a row, down a column, along the
normal) are right-handed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused

Vector = npt.NDArray[np.float64]
GAP = 0.9
"""Only a Spacing Between Slices below this share of the thickness can be a gap; else it is what its name says."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Tolerances:
    """What still counts as regular. Scanners write positions with three decimals or more, directions with five.

    Attributes:
        unit: how far a direction's length may be from 1, and the product of the two directions from 0.
        cosines: largest difference between direction cosines of images of one direction (5e-4 is 0.05 mm at 100 mm).
        in_plane: relative difference of pixel spacings of images of one grid.
        same_position: millimetres along the normal within which two images lie at one position.
        step: a step's largest difference from the spacing, as share of it; step_floor: or millimetres, if that is more.
        drift: largest distance of an image from its place on the regular grid, as share of the spacing.
        multiple: how near (as share of the spacing) a step must be to a whole multiple to count as missing slices.
        sideways: largest shift within the plane, as share of the smaller pixel spacing; sideways_floor: millimetres.
        fewest: images that make a volume.
        most_directions: images of so many geometries in one series are no volumes (rotating projections).
        echo: relative difference of echo times of one echo: scanners round them slice by slice.
        most_voxels: the most that is read of one series (4 GiB as float32).
    """

    unit: float = 1e-3
    cosines: float = 5e-4
    in_plane: float = 1e-4
    same_position: float = 0.02
    step: float = 0.02
    step_floor: float = 0.01
    drift: float = 0.1
    multiple: float = 0.1
    sideways: float = 0.1
    sideways_floor: float = 0.05
    fewest: int = 2
    most_directions: int = 32
    echo: float = 0.01
    most_voxels: int = 2**30


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one image lies.

    Attributes:
        rows, columns: its size in pixels.
        position: LPS millimetres of the centre of the first pixel (0020,0032).
        row, column: unit vectors along a row (columns grow) and down a column (rows grow) (0020,0037).
        spacing: millimetres between rows and between columns (0028,0030).
    """

    rows: int
    columns: int
    position: tuple[float, float, float]
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    spacing: tuple[float, float]

    @property
    def normal(self) -> Vector:
        """Row × column, a unit vector."""
        normal = np.cross(np.asarray(self.row), np.asarray(self.column))
        return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)

    def is_alike(self, other: Plane, tolerances: Tolerances) -> bool:
        """Whether both are of one size, one direction and one pixel spacing: images of one grid."""
        mine, theirs = np.asarray(self.row + self.column), np.asarray(other.row + other.column)
        return (
            (self.rows, self.columns) == (other.rows, other.columns)
            and bool(np.all(np.abs(mine - theirs) <= tolerances.cosines))
            and bool(np.allclose(self.spacing, other.spacing, rtol=tolerances.in_plane, atol=0))
        )


def make_plane(
    rows: int,
    columns: int,
    position: Sequence[float] | None,
    orientation: Sequence[float] | None,
    spacing: Sequence[float] | None,
    tolerances: Tolerances,
) -> Plane:
    """A checked plane from what an object says.

    Raises:
        Refused: MISSING_GEOMETRY: something is not said, not finite, or the directions are no right angle.
    """
    if position is None or orientation is None or spacing is None:
        raise ObjectRefused(Reason.MISSING_GEOMETRY, "an image without position, orientation or pixel spacing")
    if not all(np.isfinite(v).all() for v in (position, orientation, spacing)) or min(spacing) <= 0:
        raise ObjectRefused(
            Reason.MISSING_GEOMETRY, "an image with a position, orientation or pixel spacing that is no number"
        )
    row, column = np.asarray(orientation[:3], dtype=float), np.asarray(orientation[3:], dtype=float)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > tolerances.unit or abs(row @ column) > tolerances.unit:
        raise ObjectRefused(Reason.MISSING_GEOMETRY, "an image whose row and column directions are no right angle")
    x, y, z = (float(v) for v in position)
    between_rows, between_columns = (float(v) for v in spacing)
    return Plane(
        rows,
        columns,
        (x, y, z),
        _as_triple(row / lengths[0]),
        _as_triple(column / lengths[1]),
        (between_rows, between_columns),
    )


def positions_along_normal(planes: Sequence[Plane]) -> Vector:
    """Positions along the first plane's normal, millimetres, (n,)."""
    return np.asarray([p.position for p in planes], dtype=np.float64) @ planes[0].normal


def number_places(planes: Sequence[Plane], tolerances: Tolerances) -> npt.NDArray[np.int64]:
    """For each plane the number of its place along the normal, from 0; planes within `same_position` share one. (n,)"""
    distances = positions_along_normal(planes)
    order = np.argsort(distances, kind="stable")
    new = np.diff(distances[order], prepend=-np.inf) > tolerances.same_position
    numbers = np.empty(len(planes), dtype=np.int64)
    numbers[order] = np.cumsum(new) - 1
    return numbers


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular pile of planes.

    Attributes:
        order: which plane is k = 0, 1, …, along the normal.
        spacing: millimetres between planes.
        affine: (along a row, down a column, along the normal) → RAS+ millimetres, float64 (4, 4).
    """

    order: tuple[int, ...]
    spacing: float
    affine: npt.NDArray[np.float64]


def make_regular_grid(
    planes: Sequence[Plane], tolerances: Tolerances, *, between: float | None = None, thickness: float | None = None
) -> Grid:
    """The grid that alike planes make.

    The positions rule. Spacing Between Slices (0018,0088), where it is said, shows what the positions alone cannot:
    every second slice missing. Some scanners write the gap there instead, so thickness + gap is accepted too, where it
    is smaller than the thickness.

    Args:
        planes: alike (`Plane.is_alike`), in any order.
        between, thickness: Spacing Between Slices and Slice Thickness, millimetres.

    Raises:
        Refused: TOO_FEW_SLICES, DUPLICATE_SLICES, TILTED, MISSING_SLICES, IRREGULAR_SPACING.
    """
    count = len(planes)
    if count < tolerances.fewest:
        raise ObjectRefused(Reason.TOO_FEW_SLICES, f"{count} slices, {tolerances.fewest} are the fewest")
    distances = positions_along_normal(planes)
    order = np.argsort(distances, kind="stable")
    distances = distances[order]
    steps = np.diff(distances)
    together = int(np.count_nonzero(steps <= tolerances.same_position))
    if together:
        raise ObjectRefused(Reason.DUPLICATE_SLICES, f"{together} of {count} slices lie where another one lies")
    _require_upright([planes[k] for k in order], distances, tolerances)
    _require_even(steps, tolerances)
    spacing = float(distances[-1] - distances[0]) / (count - 1)
    expected = distances[0] + spacing * np.arange(count)
    if np.abs(distances - expected).max() > tolerances.drift * spacing:
        raise ObjectRefused(
            Reason.IRREGULAR_SPACING, f"the slices' distance changes along the stack (mean {spacing:.3f} mm)"
        )
    _as_declared(spacing, between, thickness, tolerances)
    first = planes[int(order[0])]
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(first.row) * first.spacing[1]
    affine[:3, 1] = np.asarray(first.column) * first.spacing[0]
    affine[:3, 2] = first.normal * spacing
    affine[:3, 3] = first.position
    return Grid(tuple(int(k) for k in order), spacing, LPS_TO_RAS @ affine)


def _as_triple(vector: Vector) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _require_upright(planes: Sequence[Plane], distances: Vector, tolerances: Tolerances) -> None:
    """Raises Refused where the pile leans (TILTED) or some slices lie beside it (IRREGULAR_SPACING)."""
    first = planes[0]
    offsets = np.asarray([p.position for p in planes]) - np.asarray(first.position)
    offsets = offsets - np.outer(distances - distances[0], first.normal)
    allowed = max(tolerances.sideways * min(first.spacing), tolerances.sideways_floor)
    most = float(np.linalg.norm(offsets, axis=1).max())
    if most <= allowed:
        return
    lean = np.outer((distances - distances[0]) / (distances[-1] - distances[0]), offsets[-1])
    if np.linalg.norm(offsets - lean, axis=1).max() <= allowed:
        angle = np.degrees(np.arctan2(np.linalg.norm(offsets[-1]), distances[-1] - distances[0]))
        raise ObjectRefused(Reason.TILTED, f"the slices are stacked {angle:.1f} degrees off their normal")
    raise ObjectRefused(Reason.IRREGULAR_SPACING, f"slices are shifted within their plane by up to {most:.2f} mm")


def _require_even(steps: Vector, tolerances: Tolerances) -> None:
    spacing = float(np.median(steps))
    odd = np.abs(steps - spacing) > max(tolerances.step * spacing, tolerances.step_floor)
    if not odd.any():
        return
    multiples = np.rint(steps[odd] / spacing)
    whole = np.abs(steps[odd] - multiples * spacing) <= tolerances.multiple * spacing
    if np.all(whole & (multiples >= 2)):
        missing = int((multiples - 1).sum())
        raise ObjectRefused(Reason.MISSING_SLICES, f"{missing} slices are missing in {int(odd.sum())} gaps")
    raise ObjectRefused(
        Reason.IRREGULAR_SPACING, f"the slices' distances run from {steps.min():.3f} to {steps.max():.3f} mm"
    )


def _as_declared(spacing: float, between: float | None, thickness: float | None, tolerances: Tolerances) -> None:
    if not between:
        return
    between = abs(between)
    near = tolerances.multiple * between
    if thickness is not None and between < GAP * thickness and abs(spacing - (thickness + between)) <= near:
        return
    multiple = round(spacing / between)
    if multiple >= 2 and abs(spacing - multiple * between) <= near:
        raise ObjectRefused(
            Reason.MISSING_SLICES, f"slices lie {spacing:.3f} mm apart where the scanner says {between:.3f} mm"
        )
