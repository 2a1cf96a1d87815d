"""What the fingerprint asks of one case (Isensee et al. 2021, Nature Methods 18:203-211, "dataset fingerprint")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.statistics.fingerprint import SAMPLED
from messages.statistics.histograms import NEAR_ZERO, VALUE_WIDTH
from site_agent.datasets.look import find_axis_order, foreground_box
from site_agent.training.protocol import MeasuredCase, MeasuredChannel


def measure_case(
    image: NDArray[np.float32],
    label: NDArray[np.uint8],
    affine: NDArray[np.float64],
    orientation: str | None,
    channels: Sequence[str],
    concepts: Sequence[str],
) -> MeasuredCase:
    """Measure one case, as its files have it.

    Args:
        image: (C, X, Y, Z). label: (X, Y, Z), concept i as value i + 1. affine: voxel → mm.
        orientation: to which the axes are brought.
    """
    order = find_axis_order(affine, orientation)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    edges = [end - begin for begin, end in foreground_box(image)]
    counts = np.bincount(label.ravel(), minlength=256)
    voxel = float(np.prod(spacing))
    inside = label > 0
    return MeasuredCase(
        spacing=[float(spacing[axis]) for axis in order],
        shape=[int(label.shape[axis]) for axis in order],
        cropped=[int(edges[axis]) for axis in order],
        channels={name: _count_values(values[inside]) for name, values in zip(channels, image, strict=True)},
        volumes={name: float(counts[place]) * voxel for place, name in enumerate(concepts, start=1)},
    )


def _count_values(values: NDArray[Any]) -> MeasuredChannel:
    """How many values lie in each bin, scaled so that a case counts the same whatever its size."""
    if not values.size:
        return MeasuredChannel(bins=[], counts=[])
    places = np.rint(np.arcsinh(values.astype(np.float64) / NEAR_ZERO) / VALUE_WIDTH).astype(np.int64)
    bins, counts = np.unique(places, return_counts=True)
    scaled = np.rint(counts * (SAMPLED / values.size)).astype(np.int64)
    kept = scaled > 0
    return MeasuredChannel(bins=bins[kept].tolist(), counts=scaled[kept].tolist())
