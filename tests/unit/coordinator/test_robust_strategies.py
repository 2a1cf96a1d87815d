"""Robust strategies against their papers in plain NumPy, and against the attackers of the table in the docs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from strategy_rounds import Round, numbers, read, written

from benchmarks.attackers import ATTACKS, BORNE, SITES, Federation, defend_against
from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.block import add_up
from coordinator.work.strategies.robust.geometric_median import GeometricMedian
from coordinator.work.strategies.robust.krum import Krum, MultiKrum
from coordinator.work.strategies.robust.median import Median
from coordinator.work.strategies.robust.norm_bound import NormBound
from coordinator.work.strategies.robust.trimmed_mean import TrimmedMean
from messages.tensors.codecs import CodecName

CODECS: tuple[CodecName, ...] = ("float32", "bfloat16", "bfloat16-difference")
CASES = {f"site-{letter}": number for number, letter in enumerate("abcdefg", 3)}
NAMES = ("w", "b", "bn.running_mean")


def given_round(codec: CodecName, sites: int = 7) -> Round:
    master = {
        "w": numbers(1, 20, 1000).astype(np.float32),
        "b": numbers(2, 30),
        "bn.running_mean": numbers(3, 9).astype(np.float32),
    }
    return Round(master, 100, codec, cases=dict(list(CASES.items())[:sites]))


def sent(given: Round, name: str) -> np.ndarray:
    """(sites, numbers): what the coordinator reads."""
    return np.array([read(given.update, buffer)[name].astype(float).ravel() for buffer in given.sent.values()])


def placed(given: Round, name: str, values: np.ndarray) -> np.ndarray:
    """Onto the model where sites send differences, and rounded once."""
    difference = given.codec == "bfloat16-difference" and given.master[name].dtype == np.float32
    base = given.master[name].astype(float) if difference else 0.0
    return (values.reshape(given.master[name].shape) + base).astype(given.master[name].dtype)


def trained(given: Round) -> np.ndarray:
    """(sites, numbers): all that the optimiser steps, as one vector a site."""
    return np.concatenate([sent(given, "w"), sent(given, "b")], axis=1)


@pytest.mark.parametrize("sites", [1, 4, 7])
@pytest.mark.parametrize("codec", CODECS)
def test_the_median_is_that_of_each_number(codec: CodecName, sites: int) -> None:
    given = given_round(codec, sites)
    assert given.make(Median(), threads=2)
    for name in NAMES:
        np.testing.assert_array_equal(given.made[name], placed(given, name, np.median(sent(given, name), axis=0)))


@pytest.mark.parametrize(("attackers", "trimmed"), [(1, 1), (3, 3), (5, 3)])
@pytest.mark.parametrize("codec", CODECS)
def test_the_trimmed_mean_is_that_of_what_is_left_of_each_number(
    codec: CodecName, attackers: int, trimmed: int
) -> None:
    given = given_round(codec)
    assert given.make(TrimmedMean(attackers), threads=2)
    for name in NAMES:
        ordered = np.sort(sent(given, name), axis=0)[trimmed : 7 - trimmed]
        total = sum(ordered[1:], start=ordered[0])
        np.testing.assert_array_equal(given.made[name], placed(given, name, total / len(ordered)))


def krum_scores(updates: np.ndarray, attackers: int) -> np.ndarray:
    """Blanchard et al. 2017, section 4: the sum over the n - f - 2 closest other vectors."""
    n = len(updates)
    found = []
    for one in range(n):
        apart = [np.linalg.norm(updates[one] - updates[other]) ** 2 for other in range(n) if other != one]
        found.append(np.sort(apart)[: n - attackers - 2].sum())
    return np.array(found)


@pytest.mark.parametrize("codec", CODECS)
def test_krum_takes_the_update_of_the_lowest_score_as_it_came(codec: CodecName) -> None:
    given = given_round(codec)
    assert given.make(Krum(attackers=2), threads=2)
    best = int(np.argmin(krum_scores(trained(given), 2)))
    for name in NAMES:
        np.testing.assert_array_equal(given.made[name], placed(given, name, sent(given, name)[best]))


@pytest.mark.parametrize("codec", CODECS)
def test_multi_krum_takes_the_mean_of_all_but_the_highest_scores(codec: CodecName) -> None:
    given = given_round(codec)
    assert given.make(MultiKrum(attackers=2), threads=2)
    best = sorted(np.argsort(krum_scores(trained(given), 2))[:5])
    for name in NAMES:
        mean = sum(sent(given, name)[one] * (1 / 5) for one in best)
        np.testing.assert_array_equal(given.made[name], placed(given, name, mean))


@pytest.mark.parametrize("codec", CODECS)
def test_the_norm_bound_shortens_each_change_to_it(codec: CodecName) -> None:
    given = given_round(codec)
    changes = {name: np.array([one.ravel() for one in given.changes(name)]) for name in ("w", "b")}
    lengths = np.linalg.norm(np.concatenate(list(changes.values()), axis=1), axis=1)
    bound = float(np.sort(lengths)[3])  # some are longer, and some are not
    assert given.make(NormBound(bound), threads=2)
    shares = np.array(list(given.shares.values())) / np.maximum(1.0, lengths / bound)
    for name, each in changes.items():
        moved = given.master[name].astype(float) + (shares @ each).reshape(given.master[name].shape)
        np.testing.assert_allclose(given.made[name], moved, rtol=0, atol=1e-7)
    mean = np.array(list(given.shares.values())) @ sent(given, "bn.running_mean")
    expected = placed(given, "bn.running_mean", mean)
    np.testing.assert_allclose(given.made["bn.running_mean"], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("codec", CODECS)
def test_the_geometric_median_is_what_the_smoothed_weiszfeld_algorithm_makes(codec: CodecName) -> None:
    """Pillutla et al. 2022, algorithm 2, on whole vectors, from the mean."""
    given, smoothing, iterations = given_round(codec), 1e-6, 30
    assert given.make(GeometricMedian(iterations, smoothing), threads=2)
    updates, shares = trained(given), np.array(list(given.shares.values()))
    median = shares @ updates
    for _ in range(iterations):
        weights = shares / np.maximum(smoothing, np.linalg.norm(updates - median, axis=1))
        median = weights @ updates / weights.sum()
    size = given.master["w"].size
    for name, values in (("w", median[:size]), ("b", median[size:])):
        np.testing.assert_allclose(given.made[name], placed(given, name, values), rtol=0, atol=1e-7)


def test_of_points_on_a_line_the_geometric_median_is_the_middle_one() -> None:
    cases = {f"site-{letter}": 1 for letter in "abcde"}
    given = Round({"w": np.zeros(3, np.float32)}, 1, cases=cases)
    for site, place in zip(cases, (0.0, 1.0, 2.0, 3.0, 1e6), strict=True):
        given.sent[site] = written({"w": np.full(3, place, np.float32)}, given.update)
    assert given.make(GeometricMedian(iterations=1000, smoothing=1e-6))
    np.testing.assert_allclose(given.made["w"], 2.0, atol=0.02)


ALL: dict[str, Strategy] = {
    "Median": Median(),
    "TrimmedMean": TrimmedMean(1),
    "Krum": Krum(1),
    "MultiKrum": MultiKrum(1),
    "NormBound": NormBound(1.0),
    "RFA": GeometricMedian(20, 1e-6),
}


@pytest.mark.parametrize("name", ALL)
def test_the_number_of_threads_does_not_show_in_the_bits(name: str) -> None:
    given, made = given_round("float32"), []
    for threads in (1, 3):
        assert given.make(ALL[name], threads=threads)
        made.append(given.out.tobytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["Median", "TrimmedMean"])
def test_the_sign_of_a_zero_does_not_depend_on_how_values_are_sorted(name: str) -> None:
    given = given_round("float32")
    for site, buffer in given.sent.items():
        arrays = read(given.update, buffer)
        arrays["w"][0] = 0.0 if site < "site-c" else -0.0
        given.sent[site] = written(arrays, given.update)
    assert given.make(ALL[name])
    assert not np.signbit(given.made["w"][0]).any()


@pytest.mark.parametrize("name", ALL)
def test_a_round_with_fewer_updates_than_a_strategy_needs_is_made_all_the_same(name: str) -> None:
    for sites in (1, 2):
        assert given_round("float32", sites).make(ALL[name])


def test_a_sum_by_halves_is_the_sum() -> None:
    for size in range(20):
        values = numbers(size, 3, size)
        expected = [math.fsum(row) for row in values]
        np.testing.assert_allclose(add_up(values.copy()), expected, atol=1e-14)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    ("name", "attackers"), [("Median", 4), ("TrimmedMean", 4), ("Krum", 4), ("MultiKrum", 4), ("RFA", 4)]
)
def test_a_robust_strategy_bears_as_many_attackers_as_the_table_says(name: str, attackers: int, attack: str) -> None:
    strategy = defend_against(name, attackers)
    assert strategy is not None
    assert Federation(attackers).end_error(strategy, attack) < BORNE


@pytest.mark.parametrize("attack", ["sign flip", "scale", "noise"])
def test_federated_averaging_does_not_bear_them(attack: str) -> None:
    strategy = defend_against("FedAvg", 2)
    assert strategy is not None
    assert not Federation(2).end_error(strategy, attack) < BORNE


def test_krum_is_not_offered_more_attackers_than_it_can_bear() -> None:
    assert SITES == 11
    assert defend_against("Krum", 4) is not None
    assert defend_against("Krum", 5) is None
