"""The bound of Steinke, Nasr and Jagielski (2023), against the paper's printed values and cases done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from deploy.privacy.one_run import Guesses, bound_epsilon, choose_guesses, find_p_value, guess_membership, list_sizes


def test_the_bound_is_the_one_that_the_paper_prints() -> None:
    assert bound_epsilon(Guesses(1000, 100, 75), 1e-4) == pytest.approx(0.673, abs=1e-3)  # Appendix D
    assert bound_epsilon(Guesses(100_000, 1510, 1439), 1e-5) == pytest.approx(2.675, abs=1e-3)  # Section 7


def test_without_delta_the_chance_is_the_tail_of_a_binomial() -> None:
    # epsilon = log 3: each guess is right with chance 3/4. All of 4 right: (3/4)^4.
    assert find_p_value(Guesses(4, 4, 4), math.log(3), 0.0) == pytest.approx(0.75**4)
    assert find_p_value(Guesses(4, 4, 3), math.log(3), 0.0) == pytest.approx(0.75**4 + 4 * 0.75**3 * 0.25)


def test_delta_adds_what_the_theorem_adds() -> None:
    # One guess, right, epsilon 0: P[W >= 1] = 1/2, and alpha = P[W = 0] / 1 = 1/2; 2 m delta alpha = 0.01.
    assert find_p_value(Guesses(10, 1, 1), 0.0, 1e-3) == pytest.approx(0.5 + 2 * 10 * 1e-3 * 0.5)
    # Two guesses, both right, epsilon 0: P[W = 2] = 1/4; i = 1: P[W = 1] / 1 = 1/2; i = 2: P[W <= 1] / 2 = 3/8.
    assert find_p_value(Guesses(2, 2, 2), 0.0, 1e-2) == pytest.approx(0.25 + 2 * 2 * 1e-2 * 0.5)


def test_all_guesses_right_bound_epsilon_by_the_root_of_the_level() -> None:
    # P[all r right] = p^r = 0.05 at p = 0.05^(1/r); epsilon = log(p / (1 - p)).
    chance = 0.05 ** (1 / 50)
    assert bound_epsilon(Guesses(50, 50, 50), 0.0) == pytest.approx(math.log(chance / (1 - chance)), abs=1e-6)


def test_guesses_no_better_than_a_coin_bound_nothing() -> None:
    assert bound_epsilon(Guesses(2000, 1000, 500), 1e-5) == 0.0
    assert bound_epsilon(Guesses(2000, 0, 0), 1e-5) == 0.0


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="right of"):
        bound_epsilon(Guesses(10, 11, 5), 1e-5)


def test_the_highest_scores_are_guessed_in_and_the_lowest_out() -> None:
    scores = np.array([5.0, -4.0, 3.0, -2.0, 0.1, 0.2])
    included = np.array([True, False, False, False, True, True])
    assert guess_membership(scores, included, 4) == Guesses(6, 4, 3)


def test_a_coin_with_the_claimed_chance_is_overestimated_in_one_run_of_twenty_at_most() -> None:
    # Randomised response at epsilon 1 keeps to its claim exactly: the bound must hold with 95 %.
    right = np.arange(2001)
    over = [bound_epsilon(Guesses(2000, 2000, int(v)), 0.0) > 1.0 for v in right[1400:1560:4]]
    refused = int(right[1400:1560:4][over.index(True)])
    assert binom.sf(refused - 1, 2000, 1 / (1 + math.exp(-1))) <= 0.05


def test_the_number_of_guesses_follows_from_the_claim_alone() -> None:
    chosen = choose_guesses(400, 20, 0.2, 1.0, 1e-5)
    assert chosen in list_sizes(400)
    assert chosen == choose_guesses(400, 20, 0.2, 1.0, 1e-5)
