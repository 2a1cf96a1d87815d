"""How a patch is varied: turned, scaled and bent as it is cut, then its intensities.

The choices are nnU-Net's (Isensee et al. 2021), the arithmetic of intensities MONAI's (GaussianSmooth,
RandSimulateLowResolution, AdjustContrast). MONAI's own randomness is not used: whatever `set_determinism` seeds, a
transform that exists already keeps its state. Here every number is drawn from the generator that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, interpolate

from messages.tasks.augmentation import FACTORS, Variation
from nets.monai_parts import AdjustContrast, GaussianSmooth, RandSimulateLowResolution
from site_agent.training.cases.cache import CachedCase

Variations = Mapping[str, Variation]
Array = NDArray[np.float32]
_APART = 16
"""Voxels between the control points of an elastic deformation."""


@dataclass(frozen=True)
class Warp:
    """Where the voxels of a patch lie in its image.

    Attributes:
        offsets: float32 (3, x, y, z), from the patch's centre, in voxels of the image.
    """

    offsets: Array

    def cut_patch(self, case: CachedCase, centre: NDArray[np.float64]) -> tuple[Array, NDArray[np.uint8] | None]:
        """Image (C, x, y, z), linearly, and label (x, y, z), the nearest, of a patch about a centre; 0 outside.

        Where a table says what the case is, there is no label.
        """
        shape = case.image.shape[1:]
        where = self.offsets + centre.astype(np.float32).reshape(3, 1, 1, 1)
        box = tuple(
            slice(min(max(int(np.floor(along.min())), 0), edge - 1), min(max(int(np.ceil(along.max())) + 1, 1), edge))
            for along, edge in zip(where, shape, strict=True)
        )
        # As grid_sample has it: -1 and 1 are the middles of the first and the last voxel, axes from the last one on.
        grid = torch.from_numpy(
            np.stack(
                [
                    2 * (along - part.start) / max(part.stop - part.start - 1, 1) - 1
                    for along, part in zip(where, box, strict=True)
                ][::-1],
                axis=-1,
            )
        )[None]
        image = np.asarray(case.image[(slice(None), *box)], dtype=np.float32)
        cut = grid_sample(torch.from_numpy(image)[None], grid, mode="bilinear", align_corners=True)[0].numpy()
        if case.truth.size:
            return cut, None
        labels = torch.from_numpy(np.asarray(case.label[box], dtype=np.float32))[None, None]
        nearest = grid_sample(labels, grid, mode="nearest", align_corners=True)[0, 0]
        return cut, nearest.to(torch.uint8).numpy()


def draw_warp(asked: Variations, patch: tuple[int, ...], rng: np.random.Generator) -> Warp | None:
    """How a patch (x, y, z) is turned, scaled and bent; None where it stays as it is.

    One that is a part of a slice, with one voxel along z, stays in its slice.
    """
    flat = patch[2] == 1
    turned = _draw_strength(asked, "rotation", rng, 1 if flat else 3)
    scale = _draw_strength(asked, "scaling", rng)
    bent = _draw_strength(asked, "elastic", rng)
    if turned is None and scale is None and bent is None:
        return None
    middles = [np.arange(edge, dtype=np.float64) - (edge - 1) / 2 for edge in patch]
    offsets = np.stack(np.meshgrid(*middles, indexing="ij"))
    if scale is not None:
        offsets *= scale[0]
    if turned is not None:
        angles = np.deg2rad(turned)
        offsets = np.einsum("ij,jxyz->ixyz", _rotate_about(angles if not flat else [0.0, 0.0, angles[0]]), offsets)
    if bent is not None:
        offsets += _bend(patch, float(bent[0]), rng)
    if flat:
        offsets[2] = 0
    return Warp(offsets.astype(np.float32))


def _rotate_about(angles: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
    """The rotation about the first axis, then the second, then the third; radians."""
    whole = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        part = np.eye(3)
        part[one, one] = part[two, two] = np.cos(angle)
        part[one, two], part[two, one] = -np.sin(angle), np.sin(angle)
        whole = part @ whole
    return whole


def _bend(patch: tuple[int, ...], most: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A smooth displacement (3, x, y, z): control points are moved by up to `most` voxels along each axis."""
    points = [2 + edge // _APART if edge > 1 else 1 for edge in patch]
    moved = rng.uniform(-most, most, (1, 3, *points)).astype(np.float32)
    bent: torch.Tensor = interpolate(torch.from_numpy(moved), size=patch, mode="trilinear", align_corners=True)
    found: NDArray[np.float32] = bent[0].numpy()
    return found


def vary_intensities(image: Array, asked: Variations, rng: np.random.Generator) -> None:
    """Vary one patch (C, *grid), finite, in place; each that happens draws a strength for each channel."""
    for key, apply in _INTENSITIES.items():
        strengths = _draw_strength(asked, key, rng, len(image))
        if strengths is None:
            continue
        which = rng.random(len(image)) < 0.5 if key in ("blur", "low_resolution") else np.ones(len(image), bool)
        for channel in np.flatnonzero(which):
            image[channel] = apply(image[channel], float(strengths[channel]), rng)


def _draw_strength(asked: Variations, key: str, rng: np.random.Generator, count: int = 1) -> NDArray[np.float64] | None:
    """Strengths of a variation, where it is asked for and happens."""
    how = asked.get(key)
    if how is None or rng.random() >= how.chance:
        return None
    least, most = how.between
    if key in FACTORS and least < 1 < most:
        below = rng.random(count) < 0.5
        return np.where(below, rng.uniform(least, 1, count), rng.uniform(1, most, count))
    return rng.uniform(least, most, count)


def _add_noise(image: Array, deviation: float, rng: np.random.Generator) -> Array:
    return image + np.float32(deviation) * rng.standard_normal(image.shape, dtype=np.float32)


def _blur(image: Array, sigma: float, _rng: np.random.Generator) -> Array:
    return _by_monai(GaussianSmooth(sigma), image) if sigma > 0 else image


def _brighten(image: Array, factor: float, _rng: np.random.Generator) -> Array:
    return image * np.float32(factor)


def _stretch_contrast(image: Array, factor: float, _rng: np.random.Generator) -> Array:
    mean = image.mean(dtype=np.float64).astype(np.float32)
    stretched: Array = np.clip((image - mean) * np.float32(factor) + mean, image.min(), image.max())
    return stretched


def _coarsen(image: Array, factor: float, _rng: np.random.Generator) -> Array:
    """MONAI's transform draws between two equal numbers: there is no chance in it."""
    finer = "bilinear" if image.ndim == 2 else "trilinear"
    coarse = RandSimulateLowResolution(prob=1.0, zoom_range=(factor, factor), upsample_mode=finer)
    return _by_monai(coarse, image)


def _raise_to(image: Array, gamma: float, _rng: np.random.Generator) -> Array:
    return _by_monai(AdjustContrast(gamma, retain_stats=True), image) if image.std() > 0 else image


def _raise_inverted(image: Array, gamma: float, _rng: np.random.Generator) -> Array:
    bent = AdjustContrast(gamma, invert_image=True, retain_stats=True)
    return _by_monai(bent, image) if image.std() > 0 else image


def _by_monai(transform: Callable[[torch.Tensor], torch.Tensor], image: Array) -> Array:
    """One channel through a transform of MONAI's."""
    varied: Array = transform(torch.from_numpy(image)[None])[0].numpy()
    return varied


_INTENSITIES: Mapping[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "gaussian_noise": _add_noise,
    "blur": _blur,
    "brightness": _brighten,
    "contrast": _stretch_contrast,
    "low_resolution": _coarsen,
    "gamma_inverted": _raise_inverted,
    "gamma": _raise_to,
}
"""In nnU-Net's order."""
