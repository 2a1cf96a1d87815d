"""FedAvgM, FedYogi and FedAdagrad against the papers' algorithms in plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from strategy_rounds import Round, numbers, read

from coordinator.work.strategies.base import BLOCK, Strategy
from coordinator.work.strategies.fedadagrad import FedAdagrad
from coordinator.work.strategies.fedavgm import FedAvgM
from coordinator.work.strategies.fedyogi import FedYogi
from messages.tensors.codecs import CodecName

Kept = dict[str, Any]


def momentum(kept: Kept, d: np.ndarray) -> np.ndarray:
    """Hsu et al. 2019, section 3.1: v = beta v + change, w = w + v; here times a learning rate."""
    kept["v"] = 0.9 * kept.get("v", 0.0) + d
    return 0.7 * kept["v"]


def yogi(kept: Kept, d: np.ndarray) -> np.ndarray:
    """Reddi et al. 2021, algorithm 2 with the line of FEDYOGI."""
    v = kept.get("v", 0.004**2)
    kept["m"] = 0.8 * kept.get("m", 0.0) + (1 - 0.8) * d
    kept["v"] = v - (1 - 0.95) * d**2 * np.sign(v - d**2)
    return 0.03 * kept["m"] / (np.sqrt(kept["v"]) + 0.004)


def adagrad(kept: Kept, d: np.ndarray) -> np.ndarray:
    """The same with the line of FEDADAGRAD."""
    kept["m"] = 0.5 * kept.get("m", 0.0) + (1 - 0.5) * d
    kept["v"] = kept.get("v", 0.004**2) + d**2
    return 0.03 * kept["m"] / (np.sqrt(kept["v"]) + 0.004)


OPTIMISERS: dict[str, tuple[Strategy, Callable[[Kept, np.ndarray], np.ndarray]]] = {
    "FedAvgM": (FedAvgM(lr=0.7, momentum=0.9), momentum),
    "FedYogi": (FedYogi(lr=0.03, beta1=0.8, beta2=0.95, tau=0.004), yogi),
    "FedAdagrad": (FedAdagrad(lr=0.03, beta1=0.5, tau=0.004), adagrad),
}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_at_the_coordinator_makes_what_its_paper_makes_over_several_rounds(
    name: str, codec: CodecName, threads: int
) -> None:
    strategy, step = OPTIMISERS[name]
    master = {
        "w": numbers(1, BLOCK + 7).astype(np.float32),
        "bn.running_var": np.abs(numbers(3, 9)).astype(np.float32),
    }
    given, before, kept = Round(master, 100, codec), None, Kept()
    for number in range(1, 4):
        change = np.zeros(BLOCK + 7)
        for share, changed in zip(given.shares.values(), given.changes("w"), strict=True):
            change = change + share * changed
        expected = (given.master["w"] + step(kept, change)).astype(np.float32)
        kept = {part: values.astype(np.float32).astype(float) for part, values in kept.items()}  # as it is kept
        assert given.make(strategy, before, threads)
        np.testing.assert_array_equal(given.made["w"], expected)
        np.testing.assert_array_equal(given.made["bn.running_var"], averaged(given, "bn.running_var"))
        before, given = given.memory, Round(given.made, 100 + 1000 * number, codec)


def averaged(given: Round, name: str) -> np.ndarray:
    """What is measured, and not trained, is averaged."""
    base = given.master[name] if given.codec == "bfloat16-difference" else 0.0
    sent = [read(given.update, buffer)[name].astype(float) for buffer in given.sent.values()]
    mean = sum(share * one for share, one in zip(given.shares.values(), sent, strict=True))
    return (mean + base).astype(np.float32)
