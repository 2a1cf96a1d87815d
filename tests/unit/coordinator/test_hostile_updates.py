"""One hostile site of three: each kind of update is refused, named, or known to pass (docs/security.md lists them).

Two honest sites and a hostile one train a small net (logistic regression, NumPy) on data of one distribution, with
shares that differ. What the coordinator measures is measured here by its own code, under an operator's
`norm_factor = 20`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from coordinator_kit import MANIFEST, SITES, scores, transfer, weights
from machine_run import Run, in_phase
from numpy.typing import NDArray

from coordinator.core import decisions as d
from coordinator.core.state import Phase
from coordinator.work.figures import compare_directions, measure_update
from coordinator.work.strategies.fedavg import FedAvg
from messages import kinds
from messages.outliers import check_updates
from messages.scores import ScoreSums, SplitScores
from messages.tensors.layout import manifest_of, write_into

Arrays = dict[str, NDArray[Any]]
FACTOR = 20.0
MANY, FEW = (30, (300, 450, 150)), (200, (60, 90, 30))
"""Features, and cases by site. With many cases honest updates agree; with few each site learns its own by heart."""
SECURITY = Path(__file__).resolve().parents[3] / "docs" / "security.md"


class World:
    """Data of three sites, the model that round 3 received and the one of round 2, and what honest training makes."""

    def __init__(self, seed: int, size: tuple[int, tuple[int, ...]] = MANY) -> None:
        self.draw, (self.features, cases) = np.random.default_rng(seed), size
        self.truth = self.draw.standard_normal(self.features)
        self.data = {site: self._sample(count) for site, count in zip(SITES, cases, strict=True)}
        self.model: Arrays = {
            "w": np.zeros(self.features, np.float32),
            "norm.running_var": np.ones(4, np.float32),
        }
        for _round in range(2):
            self.before = self.model
            made = [self.train(site, self.model) for site in self.data]
            self.model = {name: np.mean([one[name] for one in made], axis=0, dtype=np.float32) for name in self.model}

    def _sample(self, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        images = self.draw.standard_normal((count, self.features))
        return images, (images @ self.truth > 0).astype(float)

    def train(self, site: str, model: Arrays, change: Callable[[NDArray[Any]], NDArray[Any]] = lambda y: y) -> Arrays:
        images, labels = self.data[site]
        labels = change(labels)
        w = model["w"].astype(np.float64)
        for _step in range(20):
            w -= 0.1 * images.T @ (1 / (1 + np.exp(-(images @ w))) - labels) / len(labels)
        return {"w": w.astype(np.float32), "norm.running_var": model["norm.running_var"] * np.float32(1.01)}

    def honest(self, site: str) -> Arrays:
        return self.train(site, self.model)

    def moved(self, site: str = "site-c") -> NDArray[Any]:
        return self.honest(site)["w"] - self.model["w"]

    def by(self, change: NDArray[Any]) -> Arrays:
        """An update that moves the weights by this."""
        return self.honest("site-c") | {"w": (self.model["w"] + change).astype(np.float32)}

    def noise(self, times: float) -> Arrays:
        way = self.draw.standard_normal(self.features)
        return self.by(way * (times * np.linalg.norm(self.moved()) / np.linalg.norm(way)))

    def spike(self, value: float) -> Arrays:
        change = self.moved().copy()
        change[7] = value
        return self.by(change)

    def little_is_enough(self) -> Arrays:
        """Baruch et al. 2019: away from the mean by less than the others' spread, in each number."""
        others = np.stack([self.moved("site-a"), self.moved("site-b")])
        return self.by(others.mean(axis=0) - 0.7 * others.std(axis=0))

    def backdoor(self, times: float) -> Arrays:
        """A feature that no honest case has decides the label; scaled, as Bagdasaryan et al. 2020 do."""
        change = self.moved().copy()
        change[:3] += 0.5 * np.linalg.norm(change)
        return self.by(times * change)


def packed(arrays: Arrays) -> NDArray[np.uint8]:
    manifest = manifest_of(arrays)
    out = bytearray(manifest.nbytes)
    write_into(arrays, manifest, memoryview(out))
    return np.frombuffer(bytes(out), np.uint8)


def judge(world: World, hostile: Arrays) -> tuple[str, set[str]]:
    """What becomes of the hostile update, and which honest ones are refused or named beside it."""
    manifest, model = manifest_of(world.model), packed(world.model)
    sent = {
        "site-a": packed(world.honest("site-a")),
        "site-b": packed(world.honest("site-b")),
        "site-c": packed(hostile),
    }
    found = {site: measure_update(manifest, one, model, "float32", FedAvg()) for site, one in sent.items()}
    norms = {site: one.norm for site, one in found.items() if one is not None and one.norm is not None}
    others = {site: one.statistics for site, one in found.items() if one is not None and one.statistics is not None}
    refused = {site for site, one in found.items() if one is None}
    for lengths in (norms, others):
        if len(lengths) >= 3:
            refused |= {site for site, one in lengths.items() if one > FACTOR * median(lengths.values())}
    used = {site: (norms[site], sent[site]) for site in norms if site not in refused}
    cosines = compare_directions(manifest, used, model, "float32")
    checks = check_updates(dict.fromkeys(used, 0.0), norms, cosines)
    named = {site for site, one in checks.items() if one.stands_out and site not in refused}
    what = "refused" if "site-c" in refused else "named" if "site-c" in named else "undetected"
    return what, (refused | named) - {"site-c"}


KINDS: dict[str, tuple[str, Callable[[World], Arrays]]] = {
    "NaN": ("refused", lambda world: world.spike(float("nan"))),
    "infinity": ("refused", lambda world: world.spike(float("inf"))),
    "norm 1e30": ("refused", lambda world: world.noise(1e30)),
    "one number of 1e6": ("refused", lambda world: world.spike(1e6)),
    "x 100": ("refused", lambda world: world.by(100 * world.moved())),
    "poisoned statistics": (
        "refused",
        lambda world: world.honest("site-c") | {"norm.running_var": np.full(4, 1e9, np.float32)},
    ),
    "sign flipped x 10": ("named", lambda world: world.by(-10 * world.moved())),
    "sign flipped": ("named", lambda world: world.by(-world.moved())),
    "x 10": ("named", lambda world: world.by(10 * world.moved())),
    "noise x 10": ("named", lambda world: world.noise(10)),
    "swapped labels": ("named", lambda world: world.train("site-c", world.model, lambda labels: 1 - labels)),
    "scaled backdoor x 10": ("named", lambda world: world.backdoor(10)),
    "x 1.5": ("undetected", lambda world: world.by(1.5 * world.moved())),
    "nothing learnt": ("undetected", lambda world: world.by(0 * world.moved())),
    "noise": ("undetected", lambda world: world.noise(1)),
    "little is enough": ("undetected", World.little_is_enough),
    "stale update": ("undetected", lambda world: world.train("site-c", world.before)),
    "random labels": (
        "named",
        lambda world: world.train("site-c", world.model, lambda labels: world.draw.permutation(labels)),
    ),
    "backdoor": ("undetected", lambda world: world.backdoor(1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_hostile_update_is_refused_named_or_known_to_pass(kind: str) -> None:
    expected, make = KINDS[kind]
    found = [judge(World(seed), make(World(seed))) for seed in range(5)]
    assert [what for what, _honest in found] == [expected] * 5
    if expected != "undetected":
        assert all(not honest for _what, honest in found), "an honest site is named beside it"


@pytest.mark.parametrize("size", [MANY, FEW], ids=["many cases", "few cases"])
def test_honest_updates_alone_are_neither_refused_nor_named(size: tuple[int, tuple[int, ...]]) -> None:
    found = [judge(World(seed, size), World(seed, size).honest("site-c")) for seed in range(30)]
    assert found == [("undetected", set())] * 30


def test_where_honest_updates_do_not_agree_a_flipped_sign_is_not_seen() -> None:
    found = [judge(World(seed, FEW), World(seed, FEW).by(-World(seed, FEW).moved())) for seed in range(5)]
    assert found == [("undetected", set())] * 5


def perfect(cases: int) -> SplitScores:
    return SplitScores(
        cases=cases, metrics={"dice": {"WT": ScoreSums(n=cases, sum=float(cases), squares=float(cases))}}
    )


CLAIMS: dict[str, tuple[str, kinds.WeightsReady]] = {
    "2^53 cases": ("refused", weights(1, cases=2**53)),
    "one case more than it joined with": ("refused", weights(1, cases=11)),
    "scores of 2^50 cases": ("refused", weights(1, validation=perfect(2**50))),
    "a loss of 1e308": ("refused", weights(1, loss=1e308)),
    "another shape": (
        "refused",
        weights(
            1,
            transfer=kinds.Transfer(
                round=1, seal="ab" * 32, manifest=MANIFEST.model_copy(update={"tensors": MANIFEST.tensors[:1]})
            ),
        ),
    ),
    "an update of another round": ("refused", weights(1, transfer=transfer(2))),
    "perfect scores of its own cases": ("undetected", weights(1, validation=scores(1.0))),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_hostile_site_says_of_its_update_is_refused_or_known_to_pass(claim: str) -> None:
    expected, body = CLAIMS[claim]
    run: Run = in_phase(Phase.RUNNING)
    decided = run.wire(body, "site-c", number=1)
    refused = any(isinstance(one, d.Refused) and one.sender == "site-c" for one in decided)
    assert ("refused" if refused else "undetected") == expected


def test_the_security_page_lists_each_kind_with_what_becomes_of_it() -> None:
    page = SECURITY.read_text()
    for kind, (what, _more) in {**KINDS, **CLAIMS}.items():
        assert f"| {kind} | {what} |" in page, kind
