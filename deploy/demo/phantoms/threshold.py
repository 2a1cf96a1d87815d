"""How far mere brightness gets on the demo's data: the bar that says whether the task is worth learning.

For each region the best single contrast, the best side (above or below) and the best threshold are chosen with
hindsight, on the very cases they are scored on and with the labels known. A net that has learnt something has
to be clearly better than that. Run as `python -m deploy.demo.phantoms.threshold [CASES [SEED]]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy.demo.phantoms.phantom import CONTRASTS, make_case, plan_cases

REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
_BINS = 256


@dataclass(frozen=True)
class Best:
    """The best threshold of one region: mean Dice over the cases that have the region."""

    contrast: str
    above: bool
    z: float
    dice: float


def best_thresholds(
    cases: Iterable[tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.uint8]]],
) -> dict[str, Best]:
    """Best threshold a region, over images z-scored inside the brain, as training sees them.

    Dice is computed for all thresholds at once from two histograms a case; the empty truth is left out (it
    would score 0 for every threshold that finds a single voxel).
    """
    edges = np.linspace(-4, 6, _BINS + 1)
    curves: dict[tuple[str, str, bool], list[npt.NDArray[np.float64]]] = {}
    for images, label in cases:
        for contrast in CONTRASTS:
            inside = images[contrast] > 0
            values = images[contrast][inside].astype(np.float64)
            bins = np.clip(np.digitize((values - values.mean()) / values.std(), edges) - 1, 0, _BINS - 1)
            everything = np.bincount(bins, minlength=_BINS)
            for region, members in REGIONS.items():
                truth = np.isin(label[inside], members)
                if not truth.any():
                    continue
                hits = np.bincount(bins[truth], minlength=_BINS)
                for above in (True, False):
                    turn = slice(None, None, -1) if above else slice(None)
                    dice = 2 * np.cumsum(hits[turn]) / (np.cumsum(everything[turn]) + truth.sum())
                    curves.setdefault((region, contrast, above), []).append(dice[turn])
    best: dict[str, Best] = {}
    for (region, contrast, above), dices in curves.items():
        mean = np.mean(dices, axis=0)
        at = int(np.argmax(mean))
        if region not in best or mean[at] > best[region].dice:
            best[region] = Best(contrast, above, float(edges[at if above else at + 1]), float(mean[at]))
    return best


def phantom_cases(
    sites: int, cases: int, seed: int
) -> Iterable[tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.uint8]]]:
    """The cases that `write_site` would write for `sites` sites, without the disk."""
    for site in range(sites):
        for patient, visit, _ in plan_cases(site, cases):
            yield make_case(site_index=site, patient=patient, visit=visit, seed=seed)


def main() -> None:
    """Print the figure for three sites."""
    words = [int(word) for word in sys.argv[1:3]]
    cases, seed = (*words, *(20, 0)[len(words) :])
    best = best_thresholds(phantom_cases(3, cases, seed))
    lines = [
        f"{region}: Dice {b.dice:.3f} by {b.contrast} {'above' if b.above else 'below'} z = {b.z:.2f}"
        for region, b in best.items()
    ]
    mean = sum(b.dice for b in best.values()) / len(best)
    sys.stdout.write("\n".join([*lines, f"mean: {mean:.3f}"]) + "\n")


if __name__ == "__main__":
    main()
