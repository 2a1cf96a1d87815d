"""FedNova against its paper: the formula, and the consistency that federated averaging lacks."""

from __future__ import annotations

import numpy as np
import pytest
from strategy_rounds import Round, numbers, read, written

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.fedavg import FedAvg
from coordinator.work.strategies.fednova import FedNova
from messages.tensors.codecs import CodecName

STEPS = (2, 20)


@pytest.mark.parametrize("codec", ["float32", "bfloat16-difference"])
def test_fednova_makes_what_the_papers_formula_makes(codec: CodecName) -> None:
    """Equation 9 with a local SGD's a = (1, ..., 1): x + effective * sum of p * change / steps."""
    master = {"w": numbers(1, 5000).astype(np.float32), "bn.running_mean": numbers(2, 9).astype(np.float32)}
    given = Round(master, 100, codec)
    steps = (3, 11, 4)
    assert given.make(FedNova(), steps=steps, threads=2)
    shares = list(given.shares.values())
    effective = sum(p * t for p, t in zip(shares, steps, strict=True))
    moved = sum(p * change / t for p, t, change in zip(shares, steps, given.changes("w"), strict=True))
    np.testing.assert_allclose(given.made["w"], master["w"] + effective * moved, rtol=0, atol=1e-7)
    sent = [read(given.update, buffer)["bn.running_mean"].astype(float) for buffer in given.sent.values()]
    mean = sum(p * one for p, one in zip(shares, sent, strict=True))
    base = master["bn.running_mean"] if codec == "bfloat16-difference" else 0.0
    np.testing.assert_array_equal(given.made["bn.running_mean"], (mean + base).astype(np.float32))


def test_with_as_many_steps_at_each_site_fednova_is_federated_averaging() -> None:
    given = Round({"w": numbers(1, 5000).astype(np.float32)}, 100)
    given.make(FedNova(), steps=(7, 7, 7))
    nova = given.made["w"]
    given.make(FedAvg())
    np.testing.assert_allclose(nova, given.made["w"], rtol=0, atol=1e-7)


def settle(strategy: Strategy, rate: float) -> float:
    """How far from the optimum rounds of gradient descent end, in units of the distance of the two sites' optima.

    Site a has its optimum at 0 and takes 2 steps, b at 1 and takes 20, both with the same quadratic and as many cases.
    """
    optima, x = {"a": 0.0, "b": 1.0}, np.full(4, 5.0, np.float32)
    for _ in range(round(6 / rate / min(STEPS))):
        given = Round({"w": x}, 1, cases={"a": 1, "b": 1})
        for (site, optimum), steps in zip(optima.items(), STEPS, strict=True):
            trained = optimum + (1 - rate) ** steps * (x.astype(float) - optimum)
            given.sent[site] = written({"w": trained.astype(np.float32)}, given.update)
        assert given.make(strategy, steps=STEPS)
        x = given.made["w"]
    return float(abs(x[0] - 0.5))


def test_with_unequal_steps_fednova_finds_the_optimum_and_federated_averaging_another_point() -> None:
    """Theorems 1 and 2 of the paper: averaging's error stays as the rate falls, and FedNova's goes to 0 with it."""
    assert settle(FedAvg(), 0.02) > 0.35
    assert settle(FedAvg(), 0.01) > 0.35
    coarse, fine = settle(FedNova(), 0.02), settle(FedNova(), 0.01)
    assert coarse < 0.06
    assert fine < 0.6 * coarse
