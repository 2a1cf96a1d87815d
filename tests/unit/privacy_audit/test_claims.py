"""Noise, sensitivity and draws against the claim: what holds passes, and what does not is found by its own test."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.privacy.claims import LEVEL, Verdict, check_noise, check_sampling, check_sensitivity

HALVES = (np.arange(100), np.arange(100, 200))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(16)


def _fails(verdict: Verdict) -> set[str]:
    return {one.name for one in verdict.failed}


def test_noise_as_claimed_passes(rng: np.random.Generator) -> None:
    assert check_noise(rng.normal(0, 1.3, (60, 200)), 1.3, HALVES).ok


def test_half_the_noise_is_found_by_its_size(rng: np.random.Generator) -> None:
    assert "size of the noise" in _fails(check_noise(rng.normal(0, 0.65, (20, 50)), 1.3))


def test_three_percent_less_noise_is_found_in_a_hundred_thousand_numbers(rng: np.random.Generator) -> None:
    assert "size of the noise" in _fails(check_noise(rng.normal(0, 0.97, (100, 1000)), 1.0))


def test_a_step_with_more_noise_and_one_with_less_are_found(rng: np.random.Generator) -> None:
    sizes = np.ones((60, 1))
    sizes[3], sizes[4] = 1.25, 0.75
    assert "size of one step's noise" in _fails(check_noise(rng.normal(0, 1, (60, 400)) * sizes, 1.0))


def test_noise_of_the_right_size_and_the_wrong_shape_is_found(rng: np.random.Generator) -> None:
    assert _fails(check_noise(rng.uniform(-(3**0.5), 3**0.5, (60, 200)), 1.0)) == {"shape of the noise"}


def test_noise_repeated_in_each_step_is_found(rng: np.random.Generator) -> None:
    repeated = np.repeat(rng.normal(0, 1, (1, 200)), 30, axis=0)
    assert {"noise summed over steps", "two steps' noise alike"} <= _fails(check_noise(repeated, 1.0))


def test_noise_repeated_once_in_sixty_steps_is_found(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 1, (60, 200))
    noise[41] = noise[7]
    assert "two steps' noise alike" in _fails(check_noise(noise, 1.0))


def test_noise_that_takes_itself_back_in_the_next_step_is_found(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 1, (60, 200))
    noise[1::2] = -noise[::2]
    assert {"noise summed over steps", "two steps' noise alike"} <= _fails(check_noise(noise, 1.0))


def test_two_tensors_that_share_their_noise_are_found(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 1, (60, 100))
    assert "two tensors' noise alike" in _fails(check_noise(np.hstack([noise, noise]), 1.0, HALVES))


def test_a_canary_that_shows_the_clip_passes_and_one_that_shows_more_is_found() -> None:
    assert check_sensitivity({"spread": (1.0, 4000), "long": (0.995, 4000)}, 1.0).ok
    assert _fails(check_sensitivity({"spread": (1.0, 4000), "long": (1.5, 4000)}, 1.0)) == {"canaries: long"}


def test_canaries_that_are_not_seen_at_all_are_no_proof() -> None:
    assert not check_sensitivity({"long": (0.2, 4000)}, 1.0).ok


def test_poisson_draws_pass(rng: np.random.Generator) -> None:
    assert check_sampling(rng.random((40, 500)) < 0.1, 0.1).ok
    assert check_sampling(np.ones((4, 50), dtype=bool), 1.0).ok


def test_a_patient_left_out_of_a_step_that_takes_all_is_found() -> None:
    drawn = np.ones((4, 50), dtype=bool)
    drawn[2, 3] = False
    assert not check_sampling(drawn, 1.0).ok


def test_shuffled_batches_are_found_by_their_scatter(rng: np.random.Generator) -> None:
    orders = [rng.permutation(500) for _epoch in range(4)]
    rows = [np.isin(np.arange(500), part) for order in orders for part in np.split(order, 10)]
    found = _fails(check_sampling(np.array(rows), 0.1))
    assert {"scatter of patients in a step", "scatter of draws of a patient"} <= found


def test_draws_that_come_again_in_the_next_round_are_found(rng: np.random.Generator) -> None:
    drawn = rng.random((20, 500)) < 0.1
    found = _fails(check_sampling(np.vstack([drawn, drawn]), 0.1))
    assert "most patients in common of two steps" in found


def test_draws_twice_as_frequent_as_claimed_are_found(rng: np.random.Generator) -> None:
    assert "share of patients drawn" in _fails(check_sampling(rng.random((20, 500)) < 0.2, 0.1))


@pytest.mark.parametrize("rate", [0.03, 0.3])
def test_what_holds_is_hardly_ever_found_to_fail(rate: float, rng: np.random.Generator) -> None:
    wrong = 0
    for _ in range(40):
        wrong += not check_sampling(rng.random((30, 300)) < rate, rate).ok
        wrong += not check_noise(rng.normal(0, 1, (30, 60)), 1.0).ok
    assert wrong <= 1  # of 80 at a level of 1 in 1,000: two are not expected in 300 such tests
    assert LEVEL == 0.001
