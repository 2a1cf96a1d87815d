"""Poisson draws and noise against what they have to be, at 99.9 %; and that the usual ways to get them wrong show."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from site_agent.privacy.draws import draw_patients
from site_agent.privacy.grid import CLIP_UNITS, reach_of
from site_agent.privacy.keys import derive_keys, derive_number
from site_agent.privacy.noise import add_noise, draw_noise

KEYS = derive_keys(b"secret", "work", [[0], [1]])
STEPS, PATIENTS, RATE = 2000, 50, 0.2
DEVIATION = 1.5 * CLIP_UNITS
SURE = 0.001


def is_gaussian(noise: NDArray[np.int64], deviation: float) -> bool:
    """Whether numbers could be independent Gaussians of mean 0 and this deviation."""
    scaled = noise / deviation
    least, most = stats.chi2.ppf([SURE / 2, 1 - SURE / 2], scaled.size)
    spread = least <= float(scaled @ scaled) <= most
    return bool(spread and stats.kstest(scaled, "norm").pvalue > SURE and abs(scaled.mean()) < 3.3 / scaled.size**0.5)


def are_poisson_draws(draw: Callable[[int], NDArray[np.int64]]) -> bool:
    """Whether each patient is in a step with this chance, whoever else is: then a step's size is binomial."""
    drawn = [draw(step) for step in range(STEPS)]
    times = np.bincount(np.concatenate(drawn), minlength=PATIENTS)
    each = [stats.binomtest(int(one), STEPS, RATE).pvalue > SURE / PATIENTS for one in times]
    sizes = np.array([one.size for one in drawn])
    spread = float(((sizes - RATE * PATIENTS) ** 2).sum()) / (PATIENTS * RATE * (1 - RATE))
    least, most = stats.chi2.ppf([SURE / 2, 1 - SURE / 2], STEPS)
    return all(each) and bool(least * 0.97 <= spread <= most * 1.03)


def test_each_patient_is_drawn_with_the_chance_that_the_file_says_and_by_himself() -> None:
    assert are_poisson_draws(lambda step: draw_patients(KEYS.draws, step, PATIENTS, RATE))


def test_shuffled_batches_are_told_from_poisson_draws() -> None:
    """As many of each patient, and a step's size that never varies."""
    size = round(RATE * PATIENTS)

    def shuffled(step: int) -> NDArray[np.int64]:
        epoch, within = divmod(step, PATIENTS // size)
        return np.random.default_rng(epoch).permutation(PATIENTS)[within * size : (within + 1) * size]

    assert not are_poisson_draws(shuffled)
    assert not are_poisson_draws(lambda step: draw_patients(KEYS.draws, step, PATIENTS, RATE * 1.1))


def test_nobody_is_in_a_step_twice_and_all_are_where_the_rate_is_one() -> None:
    for step in range(200):
        drawn = draw_patients(KEYS.draws, step, PATIENTS, RATE)
        assert np.all(np.diff(drawn) > 0)
    assert draw_patients(KEYS.draws, 1, PATIENTS, 1.0).tolist() == list(range(PATIENTS))
    assert draw_patients(KEYS.draws, 1, 0, RATE).size == 0


def test_a_step_may_be_empty() -> None:
    assert any(draw_patients(KEYS.draws, step, 3, 0.1).size == 0 for step in range(20))


def test_noise_is_gaussian_and_as_large_as_it_has_to_be() -> None:
    noise = draw_noise(KEYS.noise, 300_001, DEVIATION)  # odd, and of more than two blocks
    assert is_gaussian(noise, DEVIATION)
    whole = noise.astype(np.float64)
    assert abs(np.corrcoef(whole[:-1], whole[1:])[0, 1]) < 3.3 / noise.size**0.5
    assert not is_gaussian(noise // 2, DEVIATION)
    assert not is_gaussian(np.rint(noise * 1.02).astype(np.int64), DEVIATION)


def test_noise_of_uniform_numbers_of_the_same_spread_shows() -> None:
    uniform = np.random.default_rng(1).uniform(-1, 1, 300_000) * DEVIATION * math.sqrt(3)
    assert not is_gaussian(np.rint(uniform).astype(np.int64), DEVIATION)


def test_each_step_and_each_sum_has_noise_of_its_own_and_the_same_one_again() -> None:
    total = np.arange(1000, dtype=np.int64)
    first = add_noise(KEYS.noise, 0, total, 1.5)
    assert np.array_equal(first, add_noise(KEYS.noise, 0, total, 1.5))
    other = total.copy()
    other[0] += 1  # as a GPU's order of sums may change it
    for step, summed in ((1, total), (0, other)):
        difference = add_noise(KEYS.noise, step, summed, 1.5) - first
        assert is_gaussian(difference - (summed - total), DEVIATION * math.sqrt(2))


def test_keys_differ_by_site_work_grouping_and_purpose() -> None:
    found = [
        derive_keys(secret, work, groups)
        for secret, work, groups in (
            (b"secret", "work", [[0], [1]]),
            (b"other", "work", [[0], [1]]),
            (b"secret", "other", [[0], [1]]),
            (b"secret", "work", [[0, 1]]),
        )
    ]
    made = {key for keys in found for key in (keys.draws, keys.noise, keys.cuts)}
    assert len(made) == 12
    assert found[0] == KEYS
    assert len({derive_number(KEYS.cuts), derive_number(KEYS.cuts, 1), derive_number(KEYS.cuts, 1, 1)}) == 3
    with pytest.raises(ValueError, match="secret"):
        derive_keys(b"", "work", [[0]])


def test_room_for_rounding_is_what_the_worst_rounding_takes() -> None:
    for size in (1, 1000, 4_800_000):
        assert CLIP_UNITS - reach_of(size) == pytest.approx(math.sqrt(size) / 2, rel=0.01, abs=0.01)
    with pytest.raises(ValueError, match="too many"):
        reach_of(2**43)
