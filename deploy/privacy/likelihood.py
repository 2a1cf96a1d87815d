"""LiRA, the likelihood-ratio attack (Carlini et al. 2022, "Membership Inference Attacks From First Principles"); pure.

Shadow models are trained on random halves of the patients. Of each patient they show how confident a model is that was
trained on him, and one that was not. The model under test is held against both.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

LEAST_ONLINE = 16
"""Shadow models from which on both sides have enough (eight each) to be told apart; with fewer, only the models that
were not trained on a patient are used (the paper's offline attack)."""
LEAST_OWN_SPREAD = 64
"""Shadow models from which on each patient has a spread of his own; with fewer, all share one, as in the paper."""
Variant = Literal["online", "offline"]


def rate_confidence(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of p = exp(-loss), the paper's scaling, which makes confidences nearly Gaussian."""
    bounded = np.clip(losses, 1e-9, 500.0)
    return np.asarray(-np.log(np.expm1(bounded)))


def draw_halves(patients: int, shadows: int, seed: int) -> NDArray[np.bool_]:
    """Which patients each shadow model is trained on: (shadows, patients).

    Two models after each other have complementary halves, so each patient is in half of an even number of them.
    """
    rng = np.random.default_rng([seed, patients])
    rows: list[NDArray[np.bool_]] = []
    while len(rows) < shadows:
        half = np.zeros(patients, dtype=np.bool_)
        half[rng.permutation(patients)[: patients // 2]] = True
        rows += [half, ~half]
    return np.array(rows[:shadows])


def choose_variant(shadows: int) -> Variant:
    """Online with enough shadow models, else offline."""
    return "online" if shadows >= LEAST_ONLINE else "offline"


def score_patients(
    target: NDArray[np.float64], shadows: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Each patient's score, high for one that the model was trained on.

    Online: log p(target | in) - log p(target | out). Offline: P(out model's confidence < target).

    Args:
        target: (patients,), confidences of the model under test. shadows: (models, patients), those of the shadow
            models. inside: (models, patients), whether the model was trained on the patient.
    """
    own = len(shadows) >= LEAST_OWN_SPREAD
    out_mean, out_spread = _fit_gaussians(shadows, ~inside, own)
    if choose_variant(len(shadows)) == "offline":
        return np.asarray((target - out_mean) / out_spread)  # the same order as its distribution function gives
    in_mean, in_spread = _fit_gaussians(shadows, inside, own)
    ratio = norm.logpdf(target, in_mean, in_spread) - norm.logpdf(target, out_mean, out_spread)
    return np.asarray(ratio)


def _fit_gaussians(
    shadows: NDArray[np.float64], chosen: NDArray[np.bool_], own: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation by patient, of the models that are chosen for him; unless `own`, one for all."""
    picked = np.where(chosen, shadows, np.nan)
    mean = np.nanmean(picked, axis=0)
    squares = np.nansum(np.square(picked - mean), axis=0)
    freedom = chosen.sum(axis=0) - 1
    shared = np.sqrt(squares.sum() / max(1, freedom.sum()))
    spread = np.sqrt(squares / freedom) if own else np.full(len(mean), shared)
    return mean, np.maximum(spread, 1e-6)
