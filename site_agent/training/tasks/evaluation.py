"""Scores of one case by rules 2 and 3 of docs/protocol.md, rules of evaluation: 3-D, native grid, full volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from messages.tasks.segmentation import CaseRow, RegionRow
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.preprocess import to_turned
from site_agent.training.tasks.base import Inference, predict_logits
from site_agent.training.tasks.regions import Regions

Mask = NDArray[np.bool_]


def score_case(
    net: torch.nn.Module,
    case: CachedCase,
    asked: Inference,
    regions: Regions,
    device: torch.device,
    *,
    hd95: bool,
) -> CaseRow:
    """Predict one whole volume and compare it with its reference on the turned grid, a bijection of the native one."""
    predicted = regions.predicted_masks(predict_case(net, case, asked, regions, device))
    references = regions.reference_masks(case.reference)
    spacing = case.geometry.spacing_mm
    return CaseRow(
        case=case.name,
        regions={
            name: _compare_masks(prediction, reference, spacing, hd95=hd95)
            for name, prediction, reference in zip(regions.names, predicted, references, strict=True)
        },
    )


@torch.inference_mode()
def predict_case(
    net: torch.nn.Module, case: CachedCase, asked: Inference, regions: Regions, device: torch.device
) -> torch.Tensor:
    """Probabilities (K, X, Y, Z) on the whole turned grid: the blended logits' probabilities, resampled."""
    image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
    logits = predict_logits(net, image, asked, device)
    return to_turned(regions.to_probabilities(logits)[0], case.geometry, regions.background)


def dice_score(prediction: Mask, reference: Mask) -> float | None:
    """2 |P ∩ R| / (|P| + |R|); None where both are empty (rule 3)."""
    size = int(prediction.sum()) + int(reference.sum())
    return 2 * int(np.logical_and(prediction, reference).sum()) / size if size else None


def hausdorff_distance(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float | None:
    """The larger of the two directed 95th percentiles of surface distances, mm; None where one is empty.

    Surface voxels are those that a 6-neighbourhood erosion takes away; computed in the box around both masks,
    outside of which no surface lies.
    """
    if not prediction.any() or not reference.any():
        return None
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
    surfaces = [np.pad(mask[box], 1) for mask in (prediction, reference)]
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in surfaces]
    directed = [
        np.percentile(ndimage.distance_transform_edt(~other, sampling=spacing_mm)[one], 95)
        for one, other in (surfaces, surfaces[::-1])
    ]
    return float(max(directed))


def _compare_masks(prediction: Mask, reference: Mask, spacing_mm: Sequence[float], *, hd95: bool) -> RegionRow:
    return RegionRow(
        dice=dice_score(prediction, reference),
        reference_empty=not reference.any(),
        prediction_empty=not prediction.any(),
        hd95=hausdorff_distance(prediction, reference, spacing_mm) if hd95 else None,
    )
