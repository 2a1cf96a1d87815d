"""A lower bound on epsilon from one training run (Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1)
Training Run"); pure.

Of m canaries each is included or not by the toss of a coin. Somebody who sees only what training released guesses of r
of them whether they were included. Under (epsilon, delta)-differential privacy the number of right guesses is at most
that of r coins which fall right with chance e^epsilon / (1 + e^epsilon), but for a term in delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binom

LARGEST_EPSILON = 100.0
"""No bound is looked for beyond it: nothing is private there."""


@dataclass(frozen=True)
class Guesses:
    """What was guessed of the canaries.

    Attributes:
        canaries: m. made: r, of how many something was guessed. right: v.
    """

    canaries: int
    made: int
    right: int


def find_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The chance of at least so many right guesses if training is (epsilon, delta)-private, from above.

    Corollary 5.4 of the paper: P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i, W ~ Binomial(r, expit(epsilon)).
    """
    right, made = guesses.right, guesses.made
    chance = float(expit(epsilon))
    p_value = float(binom.sf(right - 1, made, chance))
    if delta > 0 and right > 0:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), made, chance))
        p_value += 2 * guesses.canaries * delta * float(np.max(below / np.arange(1, right + 1)))
    return min(p_value, 1.0)


def bound_epsilon(guesses: Guesses, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that the guesses refute at this confidence, from below; 0.0 where they refute none.

    Raises:
        ValueError: numbers of guesses that cannot be.
    """
    if not 0 <= guesses.right <= guesses.made <= guesses.canaries:
        raise ValueError(f"{guesses.right} right of {guesses.made} guesses on {guesses.canaries} canaries")
    level = 1 - confidence
    low, high = 0.0, 1.0
    while high < LARGEST_EPSILON and find_p_value(guesses, high, delta) < level:
        low, high = high, high + 1
    for _ in range(30):
        middle = (low + high) / 2
        if find_p_value(guesses, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def guess_membership(scores: NDArray[np.float64], included: NDArray[np.bool_], made: int) -> Guesses:
    """Guess that the highest scores' canaries were included and that the lowest's were not, half of `made` each.

    Args:
        scores: (m,), how much each canary shows in what was released. included: (m,), the truth.
    """
    half = made // 2
    order = np.argsort(scores, kind="stable")
    right = int(included[order[len(order) - half :]].sum()) + int((~included[order[:half]]).sum())
    return Guesses(len(scores), 2 * half, right)


@cache
def choose_guesses(
    canaries: int, steps: int, sample_rate: float, noise_multiplier: float, delta: float, confidence: float = 0.95
) -> int:
    """How many guesses to make, from the claim alone: the bound holds only where their number follows from no score.

    It is the number with the best bound where as many are right as on average over eight runs of the claimed mechanism,
    with scores as `canaries` gives them.
    """
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(8):
        included = rng.random(canaries) < 0.5
        scores = included * rng.binomial(steps, sample_rate, canaries)
        runs.append((scores + rng.normal(0, noise_multiplier * steps**0.5, canaries), included))

    def bound_usual(made: int) -> float:
        right = np.mean([guess_membership(scores, included, made).right for scores, included in runs])
        return bound_epsilon(Guesses(canaries, made, int(right)), delta, confidence)

    return max(list_sizes(canaries), key=bound_usual)


def list_sizes(canaries: int) -> Sequence[int]:
    """The numbers of guesses that are tried: even, from a fiftieth of the canaries to all."""
    return sorted({max(2, 2 * int(canaries * share / 2)) for share in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1)})
