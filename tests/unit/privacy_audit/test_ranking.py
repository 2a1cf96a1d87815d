"""How well scores tell members from others, and LiRA, on cases done by hand and on Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from deploy.privacy.likelihood import choose_variant, draw_halves, rate_confidence, score_patients
from deploy.privacy.ranking import find_auc, find_share, separate


def test_the_area_counts_the_pairs_in_which_the_member_scores_higher() -> None:
    assert find_auc(np.array([3.0, 1.0]), np.array([2.0, 0.0])) == 0.75
    assert find_auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_with_fewer_than_a_hundred_others_no_false_alarm_is_allowed() -> None:
    others = np.arange(50.0)
    assert find_share(np.array([48.5, 49.0, 49.5, 60.0]), others) == 0.5


def test_with_two_hundred_others_two_false_alarms_are_allowed() -> None:
    assert find_share(np.array([197.5, 198.5, 0.0, 0.0]), np.arange(200.0)) == 0.5


def test_two_gaussians_have_the_area_that_theory_gives_them_inside_the_interval() -> None:
    rng = np.random.default_rng(2)
    found = separate(rng.normal(1, 1, 400), rng.normal(0, 1, 400), resamples=200)
    assert found.auc.low < norm.cdf(1 / 2**0.5) < found.auc.high
    assert found.found.low < norm.sf(norm.isf(0.01) - 1) < found.found.high


def test_each_patient_is_in_half_of_the_shadow_models() -> None:
    halves = draw_halves(11, 8, seed=3)
    assert halves.sum(axis=0).tolist() == [4] * 11
    assert (draw_halves(11, 8, seed=3) == halves).all()
    assert (draw_halves(11, 4, seed=3) == halves[:4]).all()  # more models later: the first stay what they were


def test_confidence_falls_with_the_loss_and_bears_any() -> None:
    rated = rate_confidence(np.array([0.0, np.log(2), 3.0, 1e6]))
    assert np.isfinite(rated).all()
    assert (np.diff(rated) < 0).all()
    assert rated[1] == pytest.approx(0.0)


@pytest.mark.parametrize(("shadows", "variant"), [(8, "offline"), (32, "online"), (64, "online")])
def test_members_are_found_where_losses_alone_say_little(shadows: int, variant: str) -> None:
    # Patients differ far more in how hard they are than by whether the model was trained on them.
    rng = np.random.default_rng(5)
    patients = 200
    hardness = rng.normal(0, 5, patients)
    inside = draw_halves(patients, shadows, seed=1)
    confidences = hardness + inside + rng.normal(0, 0.5, (shadows, patients))
    members = np.arange(patients) < 100
    target = hardness + members + rng.normal(0, 0.5, patients)
    assert choose_variant(shadows) == variant
    scores = score_patients(target, confidences, inside)
    assert find_auc(target[members], target[~members]) < 0.65
    assert find_auc(scores[members], scores[~members]) > 0.85


def test_a_model_that_knows_nobody_gives_no_score() -> None:
    rng = np.random.default_rng(6)
    inside = draw_halves(300, 16, seed=1)
    scores = score_patients(rng.normal(0, 1, 300), inside + rng.normal(0, 1, (16, 300)), inside)
    assert 0.4 < find_auc(scores[:150], scores[150:]) < 0.6
