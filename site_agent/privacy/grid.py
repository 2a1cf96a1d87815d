"""Gradients as whole numbers: one patient's part of a sum is bounded exactly, not up to the rounding of floats.

A sum of floats depends on their order, and so on who is in it: its sensitivity can be larger than the clipping norm
(Mironov 2012; Casacuberta et al. 2022). Here each gradient is clipped, rounded to a grid, and added as integers.
"""

from __future__ import annotations

import math

CLIP_UNITS = 2**20
"""The clipping norm, in steps of the grid."""
_SLACK = 1 - 2.0**-30
"""For the rounding of the norm and of the products, in float64."""


def reach_of(size: int, units: int = CLIP_UNITS) -> float:
    """How long a gradient of so many numbers may be before it is rounded, in steps of the grid: rounding moves each by
    at most a half, so the rounded one is no longer than `units`, the clipping norm.

    Raises:
        ValueError: rounding alone could make it longer.
    """
    reach = (units - math.sqrt(size) / 2) * _SLACK
    if reach <= 0:
        raise ValueError(f"{size} numbers are too many for a grid of 1 / {units} of the clipping norm")
    return reach


def steps_per_unit(clip_norm: float, units: int = CLIP_UNITS) -> float:
    """Steps of the grid in a gradient's own unit."""
    return units / clip_norm
