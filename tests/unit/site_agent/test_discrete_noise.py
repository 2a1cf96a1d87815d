"""The discrete Gaussian: whole numbers of the very distribution, and what the parts of several sites add up to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from coordinator_kit import plain
from numpy.typing import NDArray

from messages.experiment import Experiment
from messages.secure.shared import SHARED_UNITS, find_deviation, find_most, find_shared_arrival
from site_agent.privacy import discrete
from site_agent.privacy.discrete import draw_discrete

DEVIATION = 300.7


def shares(values: NDArray[np.int64], edges: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts between edges, and those that the distribution expects."""
    found = np.histogram(values, edges)[0]
    weights = np.exp(-(np.arange(edges[0], edges[-1]) ** 2) / (2 * DEVIATION**2))
    expected = np.add.reduceat(weights, edges[:-1] - edges[0]) / weights.sum() * values.size
    return found, expected


def test_each_whole_number_comes_as_often_as_the_discrete_gaussian_says() -> None:
    values = draw_discrete(b"k" * 32, 400_000, DEVIATION)
    edges = np.linspace(-7 * DEVIATION, 7 * DEVIATION, 80).astype(np.int64)
    found, expected = shares(values, edges)
    enough = expected > 20
    chi = float(((found - expected) ** 2 / expected)[enough].sum())
    assert chi < enough.sum() + 5 * math.sqrt(2 * enough.sum())
    near = np.array([np.count_nonzero(values == number) for number in range(-3, 4)])
    assert near == pytest.approx(400_000 / (DEVIATION * math.sqrt(2 * math.pi)), abs=5 * math.sqrt(540))


def test_where_float64_could_err_the_same_is_decided_with_sixty_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = draw_discrete(b"k" * 32, 2000, DEVIATION)
    monkeypatch.setattr(discrete, "_BLOCK", 4096)
    fewer = draw_discrete(b"k" * 32, 2000, DEVIATION)
    monkeypatch.setattr(discrete, "_DOUBT", 1.0)  # all is in doubt
    assert draw_discrete(b"k" * 32, 2000, DEVIATION).tolist() == fewer.tolist()
    assert usual.size == fewer.size


def test_a_key_gives_the_same_numbers_again_and_another_key_others() -> None:
    assert draw_discrete(b"a" * 32, 50_000, 1e6).tolist() == draw_discrete(b"a" * 32, 50_000, 1e6).tolist()
    other = draw_discrete(b"b" * 32, 50_000, 1e6)
    assert abs(np.corrcoef(draw_discrete(b"a" * 32, 50_000, 1e6), other)[0, 1]) < 5 / math.sqrt(50_000)


@pytest.mark.parametrize("deviation", [0.0, 255.0, 2.0**41, math.nan])
def test_a_deviation_for_which_parts_do_not_add_up_is_refused(deviation: float) -> None:
    with pytest.raises(ValueError, match="deviation"):
        draw_discrete(b"k" * 32, 1, deviation)


def shared(**changes: Any) -> Experiment:
    dp = {"noise_multiplier": 3.0, "clip_norm": 0.5, "sample_rate": 0.5, "noise": "shared", "colluding": 1} | changes
    training = {"local_steps": 1, "optimizer": {"name": "SGD", "momentum": 0.0}}
    return Experiment.model_validate(
        plain(
            sites=["site-a", "site-b", "site-c", "site-d"], training=training, plan={"weight_by": "equal"},
            quorum={"least_sites": 3}, privacy={"secure_aggregation": "masks", "dp": dp},
        )
    )  # fmt: skip


def test_the_parts_of_the_least_honest_sites_have_the_variance_that_the_file_asks_for() -> None:
    experiment = shared()
    dp = experiment.privacy.dp
    assert dp is not None
    part = find_deviation(dp, experiment.least_sites)
    whole = 3.0 * SHARED_UNITS
    assert whole**2 <= 2 * part**2 < whole**2 * 1.0001  # two of the three add theirs
    parts = [draw_discrete(bytes([site]) * 32, 200_000, part) for site in range(2)]
    assert float(np.var(sum(parts)) / whole**2) == pytest.approx(1, abs=5 * math.sqrt(2 / 200_000))


def test_a_sum_of_as_many_patients_as_are_admitted_cannot_wrap() -> None:
    experiment = shared()
    dp, most = experiment.privacy.dp, find_most(experiment)
    assert dp is not None
    assert most is not None
    assert 8000 < most < 2**15 / 4
    assert find_shared_arrival(dp, 4, 4 * most, -1.0).reach < 2**31
