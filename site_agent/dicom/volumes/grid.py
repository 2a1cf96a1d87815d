"""Volumes and labels onto a reference volume's grid, within one frame of reference. No image is registered.

A voxel is a cell about its centre: an image covers half a voxel beyond its outermost centres (PS3.3, C.7.6.2.1.1: the
position is that of the centre). Within that rim the outermost value holds; beyond it is nothing, written as 0.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume

SAME_GRID = 0.01
"""Grids whose corners lie closer than this part of a voxel are one grid: their voxels are taken as they are."""
_RIM = 0.5 + 1e-3
"""Half a voxel, and what decimal strings and float32 headers round off."""

Affine = npt.NDArray[np.float64]
Shape = tuple[int, int, int]


def resample_onto(volume: Volume, reference: Volume) -> Volume:
    """A volume on the reference's grid, by trilinear interpolation; 0 where it does not reach (see `share_outside`).

    Nothing is smoothed before: a finer volume on a coarser grid is sampled.

    Raises:
        Refused: the two lie in different frames of reference, or nothing says that they share one
            (`OTHER_FRAME_OF_REFERENCE`); the volume does not reach the reference at all (`AFFINE_MISMATCH`).
    """
    require_same_frame(volume, reference)
    shape = _shape_of(reference)
    if is_same_grid(volume.affine, _shape_of(volume), reference.affine, shape):
        return replace(volume, affine=reference.affine)
    from scipy import ndimage

    matrix, offset = map_between(reference.affine, volume.affine)
    covered = _covered_voxels(matrix, offset, _shape_of(volume), shape)
    if not covered.any():
        raise ObjectRefused(Reason.AFFINE_MISMATCH, "the series does not reach the first one's image")
    voxels = ndimage.affine_transform(
        volume.voxels, matrix, offset, output_shape=shape, output=np.float32, order=1, mode="nearest"
    )
    voxels[~covered] = 0.0
    return replace(volume, voxels=np.ascontiguousarray(voxels), affine=reference.affine, frames=())


def share_outside(volume: Volume, reference: Volume) -> float:
    """Share of the reference's voxels that the volume does not reach, from 0 to 1."""
    shape = _shape_of(reference)
    if is_same_grid(volume.affine, _shape_of(volume), reference.affine, shape):
        return 0.0
    matrix, offset = map_between(reference.affine, volume.affine)
    return 1.0 - float(np.mean(_covered_voxels(matrix, offset, _shape_of(volume), shape)))


def resample_nearest(labels: npt.NDArray[np.uint8], affine: Affine, reference: Volume) -> npt.NDArray[np.uint8]:
    """Labels (I, J, K) of another grid on the reference's, each voxel the nearest one's; 0 where none reaches."""
    shape = _shape_of(reference)
    size = _as_three(labels.shape)
    if is_same_grid(affine, size, reference.affine, shape):
        return np.ascontiguousarray(labels)
    from scipy import ndimage

    matrix, offset = map_between(reference.affine, affine)
    found = ndimage.affine_transform(
        labels, matrix, offset, output_shape=shape, output=np.uint8, order=0, mode="nearest"
    )
    found[~_covered_voxels(matrix, offset, size, shape)] = 0
    return np.ascontiguousarray(found)


def share_beyond(labels: npt.NDArray[np.uint8], affine: Affine, reference: Volume) -> float:
    """Share of the labelled voxels whose centres lie outside the reference's image; 0 where nothing is labelled."""
    at = np.argwhere(labels)
    if not len(at):
        return 0.0
    matrix, offset = map_between(affine, reference.affine)
    there = at @ matrix.T + offset
    inside = np.all((there >= -_RIM) & (there <= np.array(reference.voxels.shape) - 1 + _RIM), axis=1)
    return 1.0 - float(np.mean(inside))


def is_same_grid(affine: Affine, shape: Shape, other: Affine, other_shape: Shape) -> bool:
    """Whether two grids are one: equal shapes, and all eight corners within `SAME_GRID` of a voxel."""
    if shape != other_shape:
        return False
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))), dtype=np.float64)
    matrix, offset = map_between(affine, other)
    return bool(np.max(np.abs(corners @ matrix.T + offset - corners)) <= SAME_GRID)


def map_between(source: Affine, target: Affine) -> tuple[Affine, Affine]:
    """Matrix (3, 3) and offset (3,) that turn voxel indices of `source` into those of `target`."""
    step = np.linalg.inv(target) @ source
    return step[:3, :3], step[:3, 3]


def require_same_frame(volume: Volume, reference: Volume) -> None:
    """Raise unless both lie in one frame of reference; volumes of one series share theirs even where it has no name.

    Raises:
        Refused: `OTHER_FRAME_OF_REFERENCE`.
    """
    if volume.frame_of_reference != reference.frame_of_reference:
        raise ObjectRefused(
            Reason.OTHER_FRAME_OF_REFERENCE, "the series has another frame of reference than the first one"
        )
    if not volume.frame_of_reference and volume.series != reference.series:
        raise ObjectRefused(
            Reason.OTHER_FRAME_OF_REFERENCE, "two series without a frame of reference cannot be related"
        )


def _covered_voxels(matrix: Affine, offset: Affine, size: Shape, shape: Shape) -> npt.NDArray[np.bool_]:
    """Which voxels of a grid of `shape` lie in an image of `size`; axes that do not matter are not spread out."""
    indices: tuple[npt.NDArray[Any], ...] = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = np.ones(shape, dtype=np.bool_)
    for axis, length in enumerate(size):
        at: npt.NDArray[np.float64] = np.full((1, 1, 1), offset[axis])
        for other, index in enumerate(indices):
            if matrix[axis, other] != 0.0:
                at = at + matrix[axis, other] * index
        inside &= (at >= -_RIM) & (at <= length - 1 + _RIM)
    return inside


def _shape_of(volume: Volume) -> Shape:
    return _as_three(volume.voxels.shape)


def _as_three(shape: tuple[int, ...]) -> Shape:
    i, j, k = shape
    return i, j, k
