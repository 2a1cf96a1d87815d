"""Strategies: FedAvg's recorded bits, and FedAdam against a plain reference."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator
from hashlib import sha256

import numpy as np
import pytest
from strategy_rounds import Arrays, Round, model, numbers, read, written

from coordinator.work.aggregate import Memory, aggregate
from coordinator.work.strategies.base import BLOCK
from coordinator.work.strategies.fedadam import FedAdam
from coordinator.work.strategies.table import STRATEGIES, strategy_of
from messages.strategies import SPECS, FedAdamSpec
from messages.tensors.codecs import CodecName

FEDAVG_BITS = {
    "float32": "1dbc28544afaccdd4916122fab9af8cd32852b3af0eee1fa9cbf3f2ea2a09d58",
    "bfloat16": "b2fa01f8d6f09ea25c1ed2faa881bb341e4d4eb8ae1f13c56da969c01fa61f9f",
    "bfloat16-difference": "bd744cad463c75f7ce4278213730e50da6dcab548c68b4c108728052c6e9832b",
}
"""SHA-256 of what 03d2e43, whose averaging knew no strategies, made of the same updates: model, then its copy."""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_federated_averaging_makes_the_bits_that_it_made_before_there_were_strategies(
    codec: CodecName, threads: int
) -> None:
    given = Round(model(1), 100, codec)
    assert given.make(strategy_of(SPECS[0]()), threads=threads)
    assert sha256(given.out.tobytes() + given.wire.tobytes()).hexdigest() == FEDAVG_BITS[codec]


def reference(
    master: Arrays, rounds: Iterable[Round], lr: float, beta1: float, beta2: float, tau: float
) -> Iterator[Arrays]:
    """Algorithm 2 of Reddi et al. 2021 (FedAdam), whole tensors at once, moments kept as float32."""
    trained = ("w", "half", "wide")
    m = {name: np.zeros(master[name].shape) for name in trained}
    v = {name: np.full(master[name].shape, tau**2) for name in trained}
    for one in rounds:
        made = dict(one.master)
        for name in one.master:
            sent = {site: read(one.update, buffer)[name].astype(float) for site, buffer in one.sent.items()}
            difference = one.codec == "bfloat16-difference" and one.master[name].dtype == np.float32
            if name not in trained:
                mean = sum(one.shares[site] * sent[site] for site in one.shares)
                mean = mean + one.master[name] if difference else mean
                dtype = one.master[name].dtype
                made[name] = mean > 0.5 if dtype.kind == "b" else np.rint(mean) if dtype.kind == "i" else mean
                made[name] = made[name].astype(dtype)
                continue
            base = 0.0 if difference else one.received[name].astype(float)
            pseudo_gradient = sum(one.shares[site] * (sent[site] - base) for site in one.shares)
            m[name] = beta1 * m[name] + (1 - beta1) * pseudo_gradient
            v[name] = beta2 * v[name] + (1 - beta2) * pseudo_gradient**2
            step = lr * m[name] / (np.sqrt(v[name]) + tau)
            made[name] = (one.master[name] + step).astype(one.master[name].dtype)
            m[name], v[name] = (kept[name].astype(np.float32).astype(float) for kept in (m, v))
        yield made


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_fedadam_makes_what_the_papers_algorithm_makes_in_plain_numpy_over_several_rounds(
    codec: CodecName, threads: int
) -> None:
    parameters = {"lr": 0.03, "beta1": 0.8, "beta2": 0.95, "tau": 0.004}
    strategy, given, before = FedAdam(**parameters), Round(model(1), 100, codec), None
    played = []
    for number in range(1, 5):
        assert given.make(strategy, before, threads)
        played.append(given)
        before, given = given.memory, Round(given.made, 100 + 1000 * number, codec)
    for one, expected in zip(played, reference(model(1), played, **parameters), strict=True):
        for name, array in one.made.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_under_fedadam_sites_that_train_nothing_change_nothing_whatever_the_codec(codec: CodecName) -> None:
    given = Round(model(1), 100, codec)
    given.sent = {site: written(given.received, given.update, given.received) for site in given.sent}
    assert given.make(FedAdam(lr=1.0, beta1=0.9, beta2=0.99, tau=1e-3))
    for name in ("w", "half", "wide"):
        np.testing.assert_array_equal(given.made[name], given.master[name])


def test_a_moment_that_is_not_finite_is_told() -> None:
    given = Round({"v": np.zeros(3, np.float32)}, 1)
    given.sent = {site: written({"v": np.array([0, 1e30, 0], np.float32)}, given.update) for site in given.sent}
    assert not given.make(FedAdam(lr=0.1, beta1=0.9, beta2=0.9, tau=1e-3))  # its square is above float32
    assert np.isfinite(given.made["v"]).all()


def test_fedadam_does_not_begin_without_a_place_for_its_memory() -> None:
    given = Round({"v": np.zeros(3, np.float32)}, 1)
    out, update = np.zeros(given.manifest.nbytes, np.uint8), given.sent["site-a"]
    with pytest.raises(ValueError, match="needs its memory"):
        aggregate(given.manifest, [(1.0, update)], out, strategy=FedAdam(0.1, 0.9, 0.9, 0.1))


def test_every_strategy_that_a_file_may_name_is_there_and_takes_its_parameters() -> None:
    assert set(STRATEGIES) == set(SPECS)
    assert strategy_of(FedAdamSpec(lr=0.5)) == FedAdam(lr=0.5, beta1=0.9, beta2=0.99, tau=1e-3)


def test_fedadam_needs_no_more_memory_for_many_sites_than_for_few() -> None:
    def peak(sites: int) -> int:
        given = Round({"v": numbers(1, 3 * BLOCK).astype(np.float32)}, 1, cases={"site": 1})
        strategy = FedAdam(0.01, 0.9, 0.99, 1e-3)
        master, update = written(given.master, given.manifest), given.sent["site"]
        out, kept = master.copy(), np.zeros(6 * BLOCK * 4, np.uint8)
        tracemalloc.start()
        try:
            updates = [(1 / sites, update)] * sites
            aggregate(
                given.manifest, updates, out, master=master, threads=1, strategy=strategy, memory=Memory(None, kept)
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what is made on first use
    few, many = peak(2), peak(100)
    assert many < few + 2**20
    assert many < 10 * BLOCK * 8  # some blocks, and never a model: that would be as much again for each tensor
