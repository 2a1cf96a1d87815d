"""What a training process measures of a case, and how clipped intensities become the net's input."""

from __future__ import annotations

import numpy as np
import pytest

from messages.sections import Intensities, Preprocessing
from messages.statistics.fingerprint import SAMPLED
from messages.statistics.histograms import value_of_bin
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.statistics.measure import measure_case

AFFINE = np.diag([-3.0, 1.0, 2.0, 1.0])


def test_a_case_is_measured_along_the_oriented_axes() -> None:
    image = np.zeros((1, 10, 20, 30), dtype=np.float32)
    image[0, 2:6, 5:15, 1:29] = 7.0
    label = np.zeros((10, 20, 30), dtype=np.uint8)
    label[3:5, 6:8, 2:12] = 2
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = 2.0, 3.0, 1.0, 1.0  # the file's third axis is x
    told = measure_case(image, label, turned, "RAS", ["T1"], ["ED", "ET"])
    assert told.spacing == [2.0, 3.0, 1.0]
    assert told.shape == [30, 10, 20]
    assert told.cropped == [28, 4, 10]
    assert told.volumes == {"ED": 0.0, "ET": 40 * 6.0}


def test_a_case_counts_the_same_whatever_its_foreground() -> None:
    image = np.random.default_rng(1).normal(100, 20, (1, 12, 12, 12)).astype(np.float32)
    for edge in (2, 12):
        label = np.zeros((12, 12, 12), dtype=np.uint8)
        label[:edge] = 1
        told = measure_case(image, label, AFFINE, "RAS", ["T1"], ["ED"]).channels["T1"]
        assert sum(told.counts) == pytest.approx(SAMPLED, rel=0.02)
        assert [value_of_bin(number) for number in told.bins] == sorted(value_of_bin(number) for number in told.bins)


def test_a_channel_of_ct_is_clipped_and_scaled_by_numbers_that_hold_for_all_and_others_by_their_own() -> None:
    image = np.random.default_rng(2).normal(50, 400, (2, 12, 12, 12)).astype(np.float32)
    own = Intensities(channel=1, low=-100.0, high=300.0, mean=100.0, deviation=50.0)
    settings = Preprocessing(normalise="zscore", crop="none", intensities=(own,))
    made = prepare_case(image.copy(), np.zeros((12, 12, 12), dtype=np.uint8), np.eye(4), settings)
    assert np.allclose(made.image[0], (np.clip(image[0], -100, 300) - 100) / 50, atol=1e-5)
    assert abs(float(made.image[1].mean())) < 1e-5
