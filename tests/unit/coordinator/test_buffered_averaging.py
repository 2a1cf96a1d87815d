"""FedBuff against its paper: the formula, what it is when all are equally fast, and what the discount is for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from strategy_rounds import CASES, Arrays, model, numbers, read, written

from coordinator.core.plans.buffering import discount_update
from coordinator.work.aggregate import aggregate, share_weights
from coordinator.work.figures import compare_directions, measure_update
from coordinator.work.strategies.fedavg import FedAvg
from coordinator.work.strategies.fedbuff import FedBuff
from messages.sections import StalenessRule
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import manifest_of

LATE = (0, 2, 1)
"""Staleness of each site's update, in the order of their names."""


class Buffer:
    """A buffer of three updates, of which each began with a model of its own age."""

    def __init__(self, codec: CodecName, late: tuple[int, ...] = LATE, rule: StalenessRule = "sqrt") -> None:
        self.codec, self.shares = codec, share_weights(CASES)
        ages = [model(1000 * age) for age in range(3)]
        self.newest, self.manifest = ages[0], manifest_of(ages[0])
        self.bases = [ages[age] for age in late]
        self.discounts = tuple(discount_update(rule, age) for age in late)
        copy, self.update = self.manifest.in_codec(CODECS[codec].model), self.manifest.in_codec(codec)
        self.received = [read(copy, written(base, copy)) for base in self.bases]
        self.sent = [
            written(_trained(received, 100 + 10 * place), self.update, received)
            for place, received in enumerate(self.received)
        ]
        self.out, self.wire = np.zeros(self.manifest.nbytes, np.uint8), np.zeros(copy.nbytes, np.uint8)

    def make(self, strategy: FedBuff | FedAvg | None = None, threads: int = 1) -> Arrays:
        combining = strategy or FedBuff(self.discounts)
        assert aggregate(
            self.manifest,
            list(zip(self.shares.values(), self.sent, strict=True)),
            self.out,
            codec=self.codec,
            master=written(self.newest, self.manifest),
            wire=self.wire,
            threads=threads,
            strategy=combining,
            bases=[written(base, self.manifest) for base in self.bases] if isinstance(combining, FedBuff) else (),
        )
        return read(self.manifest, self.out)

    def told(self, name: str) -> list[NDArray[np.float64]]:
        """What each site's tensor is, as the coordinator reads it."""
        sent = [read(self.update, buffer)[name].astype(float) for buffer in self.sent]
        if CODECS[self.codec].difference and self.newest[name].dtype in (np.float32, np.float16):
            return [base[name].astype(float) + change for base, change in zip(self.received, sent, strict=True)]
        return sent


def _trained(received: Arrays, seed: int) -> Arrays:
    trained: Arrays = {}
    for name, array in received.items():
        moved = (array + numbers(seed, *array.shape) / 8).astype(array.dtype) if array.dtype.kind != "b" else array
        trained[name] = np.abs(moved) if name == "norm.running_var" else moved
    return trained


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
@pytest.mark.parametrize("rule", ["sqrt", "linear", "none"])
def test_a_buffer_makes_what_the_papers_formula_makes(codec: CodecName, rule: StalenessRule) -> None:
    """x + sum of share * s(t) * (trained - received); statistics are mixed with the newest model's."""
    buffer = Buffer(codec, rule=rule)
    made = buffer.make(threads=2)
    weights = [share * s for share, s in zip(buffer.shares.values(), buffer.discounts, strict=True)]
    for name in ("w", "wide"):
        changes = [one - base[name].astype(float) for one, base in zip(buffer.told(name), buffer.received, strict=True)]
        wanted = buffer.newest[name] + sum(weight * change for weight, change in zip(weights, changes, strict=True))
        np.testing.assert_allclose(made[name], wanted, rtol=0, atol=1e-7)
    for name in ("norm.running_var", "count"):
        mixed = sum(weight * one for weight, one in zip(weights, buffer.told(name), strict=True))
        mixed = mixed + (1 - sum(weights)) * buffer.newest[name]
        wanted = np.rint(mixed) if name == "count" else mixed
        np.testing.assert_allclose(made[name], wanted, rtol=0, atol=1e-7)


def test_a_buffer_is_the_same_to_the_bit_on_any_number_of_threads() -> None:
    buffer = Buffer("float32")
    alone = buffer.make(threads=1)
    for name, array in buffer.make(threads=3).items():
        np.testing.assert_array_equal(array, alone[name])


def test_with_all_sites_equally_fast_and_a_buffer_of_all_it_is_federated_averaging() -> None:
    """To two roundings: x + sum of share * (trained - x) and sum of share * trained differ in float64."""
    buffer = Buffer("float32", late=(0, 0, 0))
    made, mean = buffer.make(), buffer.make(FedAvg())
    for name, array in made.items():
        unit = np.spacing(np.maximum(np.abs(mean[name]), 1e-2).astype(array.dtype)) if array.dtype.kind == "f" else 0
        assert np.all(np.abs(array.astype(float) - mean[name].astype(float)) <= 2 * unit), name


@pytest.mark.parametrize("late", [(2, 2, 2), (0, 2, 2)])
def test_a_variance_that_old_updates_tell_stays_one(late: tuple[int, ...]) -> None:
    """The newest model's variance is 0; a difference of old ones would make it negative."""
    buffer = Buffer("float32", late=late)
    buffer.newest["norm.running_var"][:] = 0.0
    assert (buffer.make()["norm.running_var"] >= 0.0).all()


def test_an_update_is_measured_and_compared_with_the_model_that_it_began_with() -> None:
    buffer = Buffer("float32")
    bases = [written(base, buffer.manifest) for base in buffer.bases]
    newest = written(buffer.newest, buffer.manifest)
    norms: dict[str, float] = {}
    for site, sent, base, received in zip(buffer.shares, buffer.sent, bases, buffer.received, strict=True):
        length = measure_update(buffer.manifest, sent, base, "float32", FedAvg())
        assert length is not None
        assert length.norm is not None
        norms[site] = length.norm
        change = [read(buffer.update, sent)[name] - received[name] for name in ("w", "half", "wide")]
        assert length.norm == pytest.approx(np.sqrt(sum(float((one.astype(float) ** 2).sum()) for one in change)), 1e-4)
    updates = {site: (norms[site], sent) for site, sent in zip(buffer.shares, buffer.sent, strict=True)}
    by_site = dict(zip(buffer.shares, bases, strict=True))
    own = compare_directions(buffer.manifest, updates, newest, "float32", bases=by_site)
    assert own != compare_directions(buffer.manifest, updates, newest, "float32")
    assert all(abs(cosine) < 0.5 for cosine in own.values())  # what was added to each has nothing to do with the others


def _walk(rule: StalenessRule, rounds: int = 200, lr: float = 0.3, late: int = 12) -> float:
    """How far from the optimum a quadratic ends whose second site always answers `late` models late."""
    optimum, path = np.array([1.0, -2.0]), [np.zeros(2)]
    for _ in range(rounds):
        age = min(late, len(path) - 1)
        fresh, old = lr * (optimum - path[-1]), lr * 4 * (optimum - path[-1 - age])
        path.append(path[-1] + 0.5 * fresh + 0.5 * discount_update(rule, age) * old)
    return float(np.abs(path[-1] - optimum).max())


def test_the_discount_bears_a_site_whose_late_updates_make_plain_averaging_diverge() -> None:
    """The paper's reason for s(t): without it the error bound grows with the staleness."""
    assert _walk("none") > 1e3
    assert _walk("sqrt") < _walk("none") / 1e3
    assert _walk("linear") < 1e-2
    assert [discount_update("sqrt", late) for late in (0, 3, 8)] == [1.0, 0.5, 1 / 3]
