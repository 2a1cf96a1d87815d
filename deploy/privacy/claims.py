"""Whether noise, sensitivity and draws of a training step are what it claims, by what it released; pure.

Each claim has several tests. A claim fails where one of them would come out so in less than one run of a thousand if
the claim were true (`LEVEL`, shared out among the tests of the claim: Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, chi2, kstest, norm

LEVEL = 0.001
"""99.9 %: chance that a claim which holds is found to fail."""
LEAST_WEIGHT = 0.99
"""A canary that shows less than this of the clip is no canary: its gradient is far longer than the clip."""
MOST_STEPS = 2000
"""Steps that are compared with each other, each with each."""


@dataclass(frozen=True)
class ClaimTest:
    """One test of a claim: what was measured, what the claim says, and how likely such a measurement is under it."""

    name: str
    measured: float
    claimed: float
    p_value: float


@dataclass(frozen=True)
class Verdict:
    """What the tests of one claim say."""

    tests: tuple[ClaimTest, ...]

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[ClaimTest, ...]:
        """The tests that the claim does not pass."""
        return tuple(one for one in self.tests if one.p_value < LEVEL / len(self.tests))


def check_noise(noise: NDArray[np.floating], deviation: float, blocks: Sequence[NDArray[np.intp]] = ()) -> Verdict:
    """Whether noise is Gaussian of this standard deviation, and new in each step and coordinate.

    Args:
        noise: (steps, n), where no gradient reaches. blocks: columns of each tensor, as many of each.
    """
    unit = noise.astype(np.float64) / deviation
    steps, width = unit.shape
    tests = [
        _test_spread("size of the noise", unit, deviation),
        _test_steps("size of one step's noise", unit, deviation),
        ClaimTest("shape of the noise", float(np.mean(np.abs(unit))), (2 / np.pi) ** 0.5, _fit_normal(unit)),
        _test_spread("noise summed over steps", unit.sum(axis=0) / steps**0.5, 1.0),
        _test_spread("noise summed over weights", unit.sum(axis=1) / width**0.5, 1.0),
        _test_pairs("two steps' noise alike", unit[:MOST_STEPS]),
    ]
    if len(blocks) > 1:
        tests.append(_test_pairs("two tensors' noise alike", np.stack([unit[:, one].ravel() for one in blocks])))
    return Verdict(tuple(tests))


def check_sensitivity(seen: Mapping[str, tuple[float, int]], deviation: float) -> Verdict:
    """Whether no canary moves the sum by more than the clip.

    Args:
        seen: kind of canary → (mean of what the sum showed of one that was drawn, in units of the clip; how many).
        deviation: of the noise in one such showing, in the same unit.
    """
    tests = []
    for kind, (mean, count) in seen.items():
        if not count:
            continue
        error = deviation / count**0.5
        over, under = norm.sf((mean - 1) / error), norm.sf((LEAST_WEIGHT - mean) / error)
        tests.append(ClaimTest(f"canaries: {kind}", mean, 1.0, float(min(1.0, 2 * min(over, under)))))
    return Verdict(tuple(tests))


def check_sampling(drawn: NDArray[np.bool_], rate: float) -> Verdict:
    """Whether each patient is drawn into each step with this chance, on its own (Poisson sampling).

    Args:
        drawn: (steps, patients).
    """
    steps, patients = drawn.shape
    total = int(drawn.sum())
    tests = [ClaimTest("share of patients drawn", total / drawn.size, rate, _test_share(total, drawn.size, rate))]
    if rate < 1:
        tests += [
            _test_scatter("patients in a step", drawn.sum(axis=1), patients, rate),
            _test_scatter("draws of a patient", drawn.sum(axis=0), steps, rate),
        ]
        if steps > 1:
            tests.append(_test_overlap(drawn[:MOST_STEPS], rate))
    return Verdict(tuple(tests))


def _test_spread(name: str, unit: NDArray[np.float64], claimed: float) -> ClaimTest:
    """Numbers that are standard normal if the claim holds: by the sum of their squares."""
    squares = float(np.square(unit).sum())
    return ClaimTest(name, claimed * (squares / unit.size) ** 0.5, claimed, _two_sided(chi2(unit.size), squares))


def _test_steps(name: str, unit: NDArray[np.float64], claimed: float) -> ClaimTest:
    """Whether each step has noise of the same size: the step that is least likely."""
    squares = np.square(unit).sum(axis=1)
    expected = chi2(unit.shape[1])
    tails = np.minimum(expected.sf(squares), expected.cdf(squares))
    odd = int(np.argmin(tails))
    measured = claimed * float(squares[odd] / unit.shape[1]) ** 0.5
    return ClaimTest(name, measured, claimed, float(min(1.0, 2 * len(squares) * tails[odd])))


def _fit_normal(unit: NDArray[np.float64]) -> float:
    return float(kstest(unit.ravel()[:100_000], "norm").pvalue)


def _test_pairs(name: str, rows: NDArray[np.float64]) -> ClaimTest:
    """Rows of standard normal numbers: the pair with the largest correlation, either way."""
    count, width = rows.shape
    alike = np.abs(rows @ rows.T) / width
    largest = float(np.max(alike[np.triu_indices(count, 1)], initial=0.0))
    pairs = count * (count - 1) / 2
    return ClaimTest(name, largest, 0.0, float(min(1.0, 2 * pairs * norm.sf(largest * width**0.5))))


def _test_share(total: int, tries: int, rate: float) -> float:
    return float(binomtest(total, tries, rate).pvalue)


def _test_scatter(name: str, counts: NDArray[np.int_], tries: int, rate: float) -> ClaimTest:
    """Binomial counts: their mean square from the mean, by a chi-square of the same mean and variance."""
    variance = tries * rate * (1 - rate)
    squares = float(np.square(counts - tries * rate).sum() / variance)
    # Of one term: mean 1, variance 2 + excess kurtosis of the binomial distribution (Satterthwaite 1946).
    spread = 2 + (1 - 6 * rate * (1 - rate)) / variance
    scaled = chi2(2 * counts.size / spread)
    return ClaimTest(
        f"scatter of {name}", (squares / counts.size) ** 0.5, 1.0, _two_sided(scaled, squares * 2 / spread)
    )


def _test_overlap(drawn: NDArray[np.bool_], rate: float) -> ClaimTest:
    """How many patients two steps have in common: the pair with the most, and the one with the fewest."""
    steps, patients = drawn.shape
    rows = drawn.astype(np.float32)
    common = np.rint((rows @ rows.T)[np.triu_indices(steps, 1)]).astype(np.int64)
    claimed = binom(patients, rate**2)
    tail = min(claimed.sf(common.max() - 1), claimed.cdf(common.min()))
    return ClaimTest(
        "most patients in common of two steps",
        float(common.max()),
        patients * rate**2,
        float(min(1.0, 2 * common.size * tail)),
    )


def _two_sided(claimed: object, value: float) -> float:
    tails = (claimed.sf(value), claimed.cdf(value))  # type: ignore[attr-defined]  # scipy's frozen distributions have no type
    return float(min(1.0, 2 * min(tails)))
