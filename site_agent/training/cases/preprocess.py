"""From a native case to the net's input, and from the net's output back to the native grid.

Order: orientation, crop, resampling, normalisation (as in nnU-Net, Isensee et al. 2021). A size that is asked for is
resampled to before normalisation, or cut and padded to after it. The *native grid* is the
image's own, as it came. The *turned grid* is the native one with its axes permuted and flipped to the asked
orientation: a bijection of voxels, so that a score on it is a score on the native grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from messages.reasons import Reason
from messages.sections import Preprocessing
from nets.monai_parts import NormalizeIntensity
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.look import Box, foreground_box, target_shape, whole_box
from site_agent.training.cases.precision import NumberFormat, choose_format

LEAST_CONTRAST = 1e-6
"""Z-scores that lie no further apart than this are one value."""
FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.uint8]
Number = TypeVar("Number", np.float32, np.uint8)
Turn = tuple[tuple[int, bool], tuple[int, bool], tuple[int, bool]]
"""For each axis of the turned grid: which axis of the native grid it is, and whether it runs backwards."""


@dataclass(frozen=True)
class Geometry:
    """How to get from the net's grid back to the native one.

    Attributes:
        shape: of the turned grid (X, Y, Z).
        box: the crop in it, begin and end for each axis.
        spacing_mm: voxel size along the turned grid's axes.
        turn: from the native to the turned grid; None: not known, as in the caches of 0.1.
    """

    shape: tuple[int, int, int]
    box: Box
    spacing_mm: tuple[float, float, float]
    turn: Turn | None = None


@dataclass(frozen=True)
class PreparedCase:
    """One case, ready to train on and to score.

    Attributes:
        image: float32 (C, x, y, z), the net's input.
        label: uint8 (x, y, z), concept i as value i + 1, on the same grid.
        reference: uint8 (X, Y, Z), the label on the whole turned grid.
        number_format: in which the image is kept without losing what counts (`precision`).
    """

    image: FloatArray
    label: LabelArray
    reference: LabelArray
    geometry: Geometry
    number_format: NumberFormat = "float16"


def prepare_case(image: FloatArray, label: LabelArray, affine: NDArray[Any], settings: Preprocessing) -> PreparedCase:
    """Preprocess one case.

    Args:
        image: (C, X, Y, Z). label: (X, Y, Z). affine: voxel → mm, RAS+ (4, 4).

    Raises:
        CaseError: NOT_FINITE, EMPTY_IMAGE: the result is nothing that one could train on.

    Only the least is kept in memory: the crop comes before everything that copies.
    """
    number_format = choose_format(image, settings)
    image, label, spacing = _orient_case(image, label, affine, settings.orientation)
    shape = (int(label.shape[0]), int(label.shape[1]), int(label.shape[2]))
    box = foreground_box(image) if settings.crop == "foreground" else whole_box(shape)
    inside = tuple(slice(begin, end) for begin, end in box)
    geometry = Geometry(shape, box, spacing, _find_turn(affine, settings.orientation))
    cropped = np.ascontiguousarray(image[(slice(None), *inside)], dtype=np.float32)
    cropped_label = np.ascontiguousarray(label[inside])
    if settings.spacing_mm is not None:
        target = target_shape(cropped_label.shape, spacing, settings.spacing_mm)
        cropped, cropped_label = _resample_case(cropped, cropped_label, target)
    if settings.size is not None and settings.fit == "resize":
        cropped, cropped_label = _resample_case(cropped, cropped_label, whole_size(settings.size, cropped_label.shape))
    made = _normalise_image(cropped, settings)
    _require_contrast(made, 0.0 if settings.normalise == "none" else LEAST_CONTRAST)
    if settings.size is not None and settings.fit == "pad":
        target = whole_size(settings.size, cropped_label.shape)
        made, cropped_label = _centre(made, target), _centre(cropped_label, target)
    return PreparedCase(
        image=made,
        label=cropped_label,
        reference=np.ascontiguousarray(label),
        geometry=geometry,
        number_format=number_format,
    )


def without_label(case: PreparedCase) -> PreparedCase:
    """The same case where no label map says what it is: nothing is kept of one."""
    nothing = np.zeros((0, 0, 0), dtype=np.uint8)
    return replace(case, label=nothing, reference=nothing)


def whole_size(size: Sequence[int], shape: Sequence[int]) -> tuple[int, int, int]:
    """The grid of an image (x, y, z) that comes to a size of two or three edges; in 2D its slices stay as many."""
    return (size[0], size[1], size[2] if len(size) == 3 else shape[2])


def _centre(values: NDArray[Number], size: tuple[int, int, int]) -> NDArray[Number]:
    """The middle of (…, x, y, z), as large as `size`; zeros where there is nothing."""
    made = np.zeros((*values.shape[:-3], *size), dtype=values.dtype)
    source: list[slice] = [slice(None)] * (values.ndim - 3)
    target = list(source)
    for edge, width in zip(values.shape[-3:], size, strict=True):
        kept = min(edge, width)
        source.append(slice((edge - kept) // 2, (edge - kept) // 2 + kept))
        target.append(slice((width - kept) // 2, (width - kept) // 2 + kept))
    made[tuple(target)] = values[tuple(source)]
    return made


def _require_contrast(image: FloatArray, least: float) -> None:
    for number, channel in enumerate(image, start=1):
        if not np.isfinite(channel).all():
            raise CaseError(Reason.NOT_FINITE, f"channel {number}: no finite numbers once it is preprocessed")
        if float(channel.max()) - float(channel.min()) <= least:
            raise CaseError(Reason.EMPTY_IMAGE, f"channel {number}: one value in all voxels once it is preprocessed")


def to_native(probabilities: torch.Tensor, geometry: Geometry, background: int | None) -> torch.Tensor:
    """Probabilities (K, x, y, z) on the net's grid → (K, X, Y, Z) on the image's own grid, voxel by voxel as it came.

    So the image's own affine holds for the result. Outside the crop every probability is 0, but 1 for the channel
    `background` where there is one.

    Raises:
        ValueError: the geometry does not say how the image was turned.
    """
    if geometry.turn is None:
        raise ValueError("the geometry does not say how the image was turned: prepare the case anew")
    whole = to_turned(probabilities, geometry, background)
    backwards = [axis + 1 for axis, (_native, flipped) in enumerate(geometry.turn) if flipped]
    places = [[native for native, _flipped in geometry.turn].index(axis) + 1 for axis in range(3)]
    return whole.flip(backwards).permute(0, *places).contiguous()


def to_turned(probabilities: torch.Tensor, geometry: Geometry, background: int | None) -> torch.Tensor:
    """The same on the whole turned grid, where a case's `reference` lies. It is not the image's own."""
    inside = tuple(slice(begin, end) for begin, end in geometry.box)
    size = tuple(end - begin for begin, end in geometry.box)
    if tuple(probabilities.shape[1:]) != size:
        probabilities = interpolate(probabilities[None], size=size, mode="trilinear", align_corners=False)[0]
    if size == geometry.shape:
        return probabilities
    whole = probabilities.new_zeros((probabilities.shape[0], *geometry.shape))
    if background is not None:
        whole[background] = 1
    whole[(slice(None), *inside)] = probabilities
    return whole


def _find_turn(affine: NDArray[Any], orientation: str | None) -> Turn:
    if orientation is None:
        return ((0, False), (1, False), (2, False))
    here = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(here, nib.orientations.axcodes2ornt(tuple(orientation)))
    one, two, three = ((int(axis), bool(change[axis, 1] < 0)) for axis in np.argsort(change[:, 0]))
    return (one, two, three)


def _orient_case(
    image: FloatArray, label: LabelArray, affine: NDArray[Any], orientation: str | None
) -> tuple[FloatArray, LabelArray, tuple[float, float, float]]:
    zooms = np.sqrt(np.sum(np.asarray(affine, dtype=np.float64)[:3, :3] ** 2, axis=0))
    turn = _find_turn(affine, orientation)
    order = [native for native, _flipped in turn]
    flips = tuple(slice(None, None, -1 if flipped else 1) for _native, flipped in turn)
    label = label.transpose(order)[flips]
    image = image.transpose([0, *(axis + 1 for axis in order)])[(slice(None), *flips)]
    zooms = zooms[order]
    return image, label, (float(zooms[0]), float(zooms[1]), float(zooms[2]))


def _resample_case(image: FloatArray, label: LabelArray, shape: tuple[int, ...]) -> tuple[FloatArray, LabelArray]:
    """To a grid over the same field of view: trilinear, labels by their nearest neighbour."""
    if shape == label.shape:
        return image, label
    bigger = interpolate(torch.from_numpy(image)[None], size=shape, mode="trilinear", align_corners=False)
    nearest = interpolate(torch.from_numpy(label)[None, None], size=shape, mode="nearest-exact")
    return bigger[0].numpy(), nearest[0, 0].numpy()


def _normalise_image(image: FloatArray, settings: Preprocessing) -> FloatArray:
    """Each channel by numbers of its own, where the settings have some, else by their rule."""
    own = {one.channel - 1: one for one in settings.intensities}
    fixed = {place: (np.clip(image[place], one.low, one.high) - one.mean) / one.deviation for place, one in own.items()}
    made = image
    if settings.normalise != "none":
        transform = NormalizeIntensity(nonzero=settings.normalise == "zscore-nonzero", channel_wise=True)
        made = np.ascontiguousarray(transform(image), dtype=np.float32)
    if fixed:
        made = made.copy()  # it may be the caller's own
    for place, values in fixed.items():
        made[place] = values
    return made
