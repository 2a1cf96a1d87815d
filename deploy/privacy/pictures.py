"""Small pictures of patients for attacks: slices or volumes of phantoms, or of a person's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from deploy.demo.phantoms.phantom import make_case
from deploy.predict.gathering import gather_cases
from deploy.privacy.apart import Tell
from messages.ground.errors import RequestError
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.cases import read_case

Picture = NDArray[np.float64]
LEAST = 2
"""Pictures: with one there is no sum, and nothing to guess by."""
_SHAPE, _SPACING = (44, 52, 36), (4.0, 4.0, 4.0)


def gather_pictures(named: Sequence[str], count: int, dims: int, edge: int, seed: int, tell: Tell) -> list[Picture]:
    """At most `count` pictures with `dims` edges of so many pixels, in [0, 1]; of phantoms where nothing is named.

    Raises:
        RequestError: there is no image, or only one.
    """
    if not named:
        return [_make_phantom(number, dims, edge, seed) for number in range(count)]
    found: list[Picture] = []
    for case in gather_cases([Path(one) for one in named], ("image",)):
        tell(f"reading images: {len(found)} of {count}")
        try:
            with hold_faults(case.key):
                found.append(shrink_picture(read_case(case, {}, None).image[0], dims, edge))
        except CaseError as error:
            raise RequestError(f"{error.what} ({error.reason})", where=case.key) from None
        if len(found) == count:
            break
    if len(found) < LEAST:
        raise RequestError(f"{len(found)} image: {LEAST} or more are needed", where="--data")
    return found


def shrink_picture(volume: NDArray[Any], dims: int, edge: int) -> Picture:
    """An image (X, Y, Z) as a small one: of two edges, its slice with most to see; values from 0 to the 99.5th
    percentile → [0, 1]."""
    whole = np.nan_to_num(np.asarray(volume, dtype=np.float64))
    if dims == 2:
        whole = whole[..., int(np.argmax(whole.std(axis=(0, 1))))]
    small = zoom(whole, [edge / size for size in whole.shape], order=1, grid_mode=True, mode="nearest")
    low, high = np.percentile(small, [0.5, 99.5])
    return np.asarray(np.clip((small - low) / max(high - low, 1e-9), 0, 1))


def _make_phantom(number: int, dims: int, edge: int, seed: int) -> Picture:
    images, label = make_case(
        site_index=number % 3, patient=number, visit=0, seed=seed, shape=_SHAPE, spacing_mm=_SPACING
    )
    flair = images["FLAIR"]
    if dims == 2:  # where the tumour is largest
        flair = flair[..., [int(np.argmax((label > 0).sum(axis=(0, 1))))]]
    return shrink_picture(flair, dims, edge)
