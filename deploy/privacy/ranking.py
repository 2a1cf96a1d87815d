"""How well scores tell members from others: AUC, share found at few false alarms, intervals by patient; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Scores = NDArray[np.float64]
FALSE_ALARMS = 0.01
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Separation:
    """How well members are told from others.

    Attributes:
        auc: chance that a member's score is the higher one of a pair; 0.5 is guessing.
        found: share of the members found where at most `FALSE_ALARMS` of the others are taken for members.
    """

    auc: Estimate
    found: Estimate
    members: int
    others: int


def separate(members: Scores, others: Scores, *, seed: int = 0, resamples: int = RESAMPLES) -> Separation:
    """Measure both figures; a score stands for a patient.

    Intervals are percentiles of a bootstrap (Efron and Tibshirani 1993) that draws members and others on their own.

    Args:
        members: scores of patients that the model was trained on: (m,). others: (n,). High: taken for a member.
    """
    rng = np.random.default_rng(seed)
    draws = [(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(resamples)]

    def estimate(statistic: Callable[[Scores, Scores], float]) -> Estimate:
        low, high = np.percentile([statistic(*drawn) for drawn in draws], [2.5, 97.5])
        return Estimate(statistic(members, others), float(low), float(high))

    return Separation(estimate(find_auc), estimate(find_share), len(members), len(others))


def find_auc(members: Scores, others: Scores) -> float:
    """The area under the ROC curve, as Mann and Whitney's statistic; equal scores count half."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def find_share(members: Scores, others: Scores, false_alarms: float = FALSE_ALARMS) -> float:
    """The share of members above the lowest threshold that at most this share of the others passes."""
    allowed = int(false_alarms * len(others))
    threshold = np.sort(others)[::-1][allowed]
    return float(np.mean(members > threshold))
