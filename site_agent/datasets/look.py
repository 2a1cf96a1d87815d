"""The look before training: whether a case's size, place and values are such that it may be trained on. Pure.

Bounds are stated here, and held before anything of the size is allocated: a header that wants 19 TB leaves out its
case, not its site. What preprocessing will make of a case is foreseen without making it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.description import MOST_LABEL
from site_agent.datasets.nifti import require_room

MOST_LOST, _LEAST_DRAWN = 3, 3
"""Slices of a gap that is a loss, at most; how many times as many have to have contrast (dots in a test have less)."""
_LEAST_FULL = 0.5
"""Of what a slice holds (median), what both sides of a loss hold, at least. Where a mask thins out, they hold less."""
LEAST_MM, MOST_MM = 0.005, 100.0
"""Edges of a voxel between which a body is imaged: from micro-CT to a scout's slices."""
MOST_LEAN = 0.5
"""How far (in voxels, over the whole image) the axes may lean from right angles."""
MOST_VALUE = 1e28
"""The largest intensity: larger ones, summed over an image, are more than float32 holds: no z-score is a number."""

_SAMPLE = 100_000
_LEAST_STEPS = 16
"""Steps of a format that have to lie between the 5th and the 95th percentile of z-scores."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
FloatArray = npt.NDArray[np.float32]


def judge_geometry(affine: npt.NDArray[np.float64], shape: tuple[int, ...], name: str = "") -> None:
    """Raise CaseError (MISSING_GEOMETRY, TILTED) where an image's grid is none, or none that a body has.

    Args:
        affine: (4, 4), voxel indices → mm. shape: (X, Y, Z).
    """
    if not np.isfinite(affine).all():
        raise CaseError(Reason.MISSING_GEOMETRY, "the header's position is no number", where=name)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes.min() >= LEAST_MM and sizes.max() <= MOST_MM):
        said = " × ".join(f"{size:.4g}" for size in sizes)
        what = f"voxels of {said} mm, not between {LEAST_MM} and {MOST_MM:g}: is xyzt_units right?"
        raise CaseError(Reason.MISSING_GEOMETRY, what, where=name)
    axes = affine[:3, :3] / sizes
    if abs(np.linalg.det(axes)) < 1e-3:
        raise CaseError(Reason.MISSING_GEOMETRY, "the header says no usable position", where=name)
    angles = np.abs(axes.T @ axes - np.eye(3))
    lean = float((angles * (sizes * np.array(shape))[:, None] / sizes[None, :]).max())
    if lean > MOST_LEAN:
        raise CaseError(Reason.TILTED, f"the axes lean by {lean:.3g} voxels from right angles", where=name)


def judge_values(image: FloatArray, name: str = "") -> None:
    """Raise CaseError (NOT_FINITE, EMPTY_IMAGE) where one channel's values are no image.

    Args:
        image: (X, Y, Z).
    """
    if not np.isfinite(image).all():
        raise CaseError(Reason.NOT_FINITE, "holds NaN or infinity", where=name)
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise CaseError(Reason.EMPTY_IMAGE, "all voxels have one value", where=name)
    if max(-low, high) > MOST_VALUE:
        what = f"holds {max(-low, high):.3g}: normalised it would be no number (at most {MOST_VALUE:g})"
        raise CaseError(Reason.NOT_FINITE, what, where=name, advice="Set what is no tissue to 0, or export it again")


def judge_slices(image: FloatArray, name: str) -> None:
    """Raise CaseError where up to `MOST_LOST` slices of one value lie between slices that have contrast: lost on their
    way, and filled up. What lies beyond a body (masked, cropped) is no such gap, nor where a mask thins out.

    Args:
        image: (X, Y, Z): along the last axis, as scanners' slices are stored.
    """
    low = image.min(axis=(0, 1))
    drawn = np.flatnonzero(low != image.max(axis=(0, 1)))
    gaps = np.diff(drawn) - 1
    lost = np.flatnonzero((gaps > 0) & (gaps <= MOST_LOST))
    if drawn.size < _LEAST_DRAWN * gaps[lost].sum():
        return
    for place in lost:
        first = int(drawn[place]) + 1
        held = np.count_nonzero(image[..., drawn] != low[first], axis=(0, 1))
        if min(held[place], held[place + 1]) >= _LEAST_FULL * np.median(held):
            what = f"slice {first + 1} of {image.shape[2]} holds one value, and those around it do not"
            advice = "Export it again: slices were lost on the way"
            raise CaseError(Reason.MISSING_SLICES, what, where=name, advice=advice)


def judge_against_label(image: FloatArray, read_label: Callable[[], npt.NDArray[Any]], name: str) -> None:
    """Raise CaseError where an image is the label map itself, copied or saved under the wrong name.

    Args:
        image: (X, Y, Z), as `judge_values` let it pass. read_label: gives the label's integers, as the file has them.
    """
    if image.max() > MOST_LABEL or image.min() < 0:  # as most images: nothing is read again for them
        return
    if np.array_equal(image, read_label()):
        what = "holds the very voxels of the label map, and is no image"
        raise CaseError(Reason.AMBIGUOUS_SERIES, what, where=name, advice="Put the image there instead")


def judge_preprocessing(
    image: FloatArray, affine: npt.NDArray[np.float64], settings: Preprocessing, *, whole: bool = False
) -> None:
    """Raise CaseError where what preprocessing would make is too large, without extent, or without contrast.

    Args:
        image: (C, X, Y, Z), as the files have it. whole: a net sees it as a whole: in 2D it is one slice.
    """
    shape = (image.shape[1], image.shape[2], image.shape[3])
    if settings.size is not None and len(settings.size) == 3 and shape[2] == 1:
        raise CaseError(Reason.SHAPE_MISMATCH, "is one slice, and preprocessing.size has three numbers")
    if settings.size is not None and len(settings.size) == 2 and whole and shape[2] > 1:
        raise CaseError(Reason.SHAPE_MISMATCH, f"has {shape[2]} slices, and preprocessing.size has two numbers")
    box = foreground_box(image) if settings.crop == "foreground" else whole_box(shape)
    inside = image[(slice(None), *(slice(begin, end) for begin, end in box))]
    if settings.spacing_mm is not None:
        judge_resampling(inside.shape[1:], affine, settings, image.shape[0])
    for number, channel in enumerate(inside, start=1):
        values = channel[channel != 0] if settings.normalise == "zscore-nonzero" else channel
        own = next((one for one in settings.intensities if one.channel == number), None)
        values = values if own is None else np.clip(channel, own.low, own.high)
        if values.size == 0 or float(values.min()) == float(values.max()):
            raise CaseError(Reason.EMPTY_IMAGE, f"channel {number}: without contrast once it is cropped and normalised")
        if own is None and settings.normalise != "none" and not is_spread(values.ravel(), np.float32):
            what = f"channel {number}: some values are so large that normalised all others are one"
            raise CaseError(Reason.NOT_FINITE, what, advice="Set what is no tissue to 0, or export it again")


def is_spread(
    values: FloatArray,
    kind: type[np.float16 | np.float32] = np.float16,
    *,
    mean: float | None = None,
    deviation: float | None = None,
) -> bool:
    """Whether a format tells most of the z-scores apart; the most frequent value (background) does not count.

    Args:
        values: (n,). mean, deviation: that they are normalised by; None: their own.
    """
    sample = values[:: max(1, values.size // _SAMPLE)]
    found, counts = np.unique(sample, return_counts=True)
    if found.size < 3:  # a mask: all its values are apart
        return True
    rest = sample[sample != found[counts.argmax()]]
    width = float(np.std(values, dtype=np.float64)) if deviation is None else deviation
    if not 0 < width < np.inf:
        return True  # there is no z-score: it is left out
    centre = float(np.mean(values, dtype=np.float64)) if mean is None else mean
    ends = np.percentile(rest, (5, 95)).astype(np.float64)
    if kind is np.float32 and ends[0] == ends[1]:
        return True  # most of it is one value as it is
    low, high = (ends - centre) / width
    step = float(np.spacing(kind(min(max(abs(low), abs(high)), 6e4))))
    return bool(high - low >= _LEAST_STEPS * step)


def judge_resampling(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], settings: Preprocessing, channels: int
) -> None:
    """Raise CaseError where resampling would make more voxels than the bound, or only one along an axis of several."""
    cells, target = resampled_shape(shape, affine, settings)
    said = f"{' × '.join(map(str, cells))} voxels become {' × '.join(map(str, target))}"
    try:
        require_room(target, np.dtype((np.float32, (channels,))))
    except CaseError as error:
        raise CaseError(error.reason, f"{said} when it is resampled: {error.what}") from None
    if any(after == 1 < before for before, after in zip(cells, target, strict=True)):
        raise CaseError(Reason.MISSING_GEOMETRY, f"{said} when it is resampled: is its spacing right?")


def resampled_shape(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], settings: Preprocessing
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The grid once it is oriented, and the net's over the same field of view; the same where nothing is resampled.

    Args:
        shape: (X, Y, Z). affine: (4, 4), voxel indices → mm.
    """
    order = find_axis_order(affine, settings.orientation)
    cells = tuple(shape[axis] for axis in order)
    if settings.spacing_mm is None:
        return cells, cells
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return cells, target_shape(cells, tuple(float(sizes[axis]) for axis in order), settings.spacing_mm)


def whole_box(shape: tuple[int, ...]) -> Box:
    """All of a volume."""
    return ((0, shape[0]), (0, shape[1]), (0, shape[2]))


def foreground_box(image: FloatArray) -> Box:
    """The box of all voxels that are not 0 in some channel (C, x, y, z); everything where all are 0."""
    edges: list[tuple[int, int]] = []
    mask = np.any(image != 0, axis=0)
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        edges.append((int(line[0]), int(line[-1]) + 1) if line.size else (0, mask.shape[axis]))
    return (edges[0], edges[1], edges[2])


def target_shape(
    shape: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, float, float]
) -> tuple[int, ...]:
    """The grid of another spacing over the same field of view."""
    return tuple(max(1, round(n * s / w)) for n, s, w in zip(shape, spacing, wanted, strict=True))


def find_axis_order(affine: npt.NDArray[np.float64], orientation: str | None) -> list[int]:
    """Which of the file's axes comes first, second and third once it is oriented."""
    if orientation is None:
        return [0, 1, 2]
    import nibabel as nib

    here = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(here, nib.orientations.axcodes2ornt(tuple(orientation)))
    return [int(axis) for axis in np.argsort(change[:, 0])]
