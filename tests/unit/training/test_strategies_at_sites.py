"""Both halves of FedProx, SCAFFOLD, FedDyn and FedDC against the papers' algorithms in plain NumPy, and what the papers
show of them: on heterogeneous quadratics federated averaging drifts to a wrong point."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from toy_federation import QuadraticSite, ToyFederation

from coordinator.work.strategies.table import strategy_of
from messages.sections import Training
from messages.strategies import (
    SPECS,
    DittoSpec,
    FedAvgSpec,
    FedDCSpec,
    FedDynSpec,
    FedProxSpec,
    MoonSpec,
    ScaffoldSpec,
    StrategySpec,
)
from messages.tasks.optimisers import Optimizer
from site_agent.training.strategies.table import rule_of

RATE, STEPS, ROUNDS = 0.1, 10, 6
OPTIMA = np.array([[0.0, 2.0, -1.0], [4.0, -3.0, 0.5], [1.0, 1.0, 1.0]])
CURVATURES = np.array([[1.0, 0.2, 0.5], [0.1, 1.0, 0.5], [0.5, 0.3, 2.0]])


def federation(spec: StrategySpec, steps: int = STEPS) -> ToyFederation:
    sites = [QuadraticSite(one, two, steps) for one, two in zip(OPTIMA, CURVATURES, strict=True)]
    return ToyFederation(spec, sites, RATE)


def slope(site: int, w: np.ndarray) -> np.ndarray:
    return CURVATURES[site] * (w - OPTIMA[site])


def fedprox(mu: float) -> np.ndarray:
    """Li et al. 2020, algorithm 2, the proximal problem solved by gradient descent."""
    x = np.zeros(3)
    for _ in range(ROUNDS):
        trained = []
        for site in range(3):
            w = x.copy()
            for _ in range(STEPS):
                w = w - RATE * (slope(site, w) + mu * (w - x))
            trained.append(w)
        x = np.mean(trained, axis=0)
    return x


def scaffold(global_rate: float) -> np.ndarray:
    """Karimireddy et al. 2020, algorithm 1, option II, every site in every round."""
    x, c, own = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    for _ in range(ROUNDS):
        changes, controls = [], []
        for site in range(3):
            y = x.copy()
            for _ in range(STEPS):
                y = y - RATE * (slope(site, y) - own[site] + c)
            new = own[site] - c + (x - y) / (STEPS * RATE)
            changes.append(y - x)
            controls.append(new - own[site])
            own[site] = new
        x = x + global_rate * np.mean(changes, axis=0)
        c = c + np.mean(controls, axis=0)
    return x


def feddyn(alpha: float) -> np.ndarray:
    """Acar et al. 2021, algorithm 1, every site in every round, the local problem by gradient descent."""
    x, h, slopes = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    for _ in range(ROUNDS):
        trained = []
        for site in range(3):
            w = x.copy()
            for _ in range(STEPS):
                w = w - RATE * (slope(site, w) - slopes[site] + alpha * (w - x))
            slopes[site] = slopes[site] - alpha * (w - x)
            trained.append(w)
        h = h - alpha * sum(w - x for w in trained) / 3
        x = np.mean(trained, axis=0) - h / alpha
    return x


def feddc(alpha: float) -> np.ndarray:
    """Gao et al. 2022, algorithm 1, every site in every round."""
    x, g, own, drift = np.zeros(3), np.zeros(3), np.zeros((3, 3)), np.zeros((3, 3))
    for _ in range(ROUNDS):
        trained = []
        for site in range(3):
            w = x.copy()
            for _ in range(STEPS):
                penalty = alpha * (drift[site] + w - x) + (own[site] - g) / (RATE * STEPS)
                w = w - RATE * (slope(site, w) + penalty)
            trained.append(w)
        own = np.array(trained) - x
        drift = drift + own
        x, g = np.mean(np.array(trained) + drift, axis=0), own.mean(axis=0)
    return x


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FedProxSpec(mu=0.3), fedprox(0.3)),
        (FedProxSpec(mu=0.0), fedprox(0.0)),
        (ScaffoldSpec(), scaffold(1.0)),
        (ScaffoldSpec(lr=0.5), scaffold(0.5)),
        (FedDynSpec(alpha=0.4), feddyn(0.4)),
        (FedDCSpec(alpha=0.4), feddc(0.4)),
    ],
)
def test_sites_and_coordinator_together_make_what_the_paper_makes(spec: StrategySpec, expected: np.ndarray) -> None:
    toy = federation(spec)
    toy.play(ROUNDS)
    np.testing.assert_allclose(toy.tensors["w"], expected, rtol=0, atol=2e-5)


def test_fedprox_without_its_term_is_federated_averaging_to_the_bit() -> None:
    made = []
    for spec in (FedAvgSpec(), FedProxSpec(mu=0.0)):
        toy = federation(spec)
        toy.play(3)
        made.append(toy.model.tobytes())
    assert made[0] == made[1]


def test_federated_averaging_drifts_and_what_corrects_drift_finds_the_optimum() -> None:
    """Karimireddy et al. 2020, theorems II and III; Acar et al. 2021, theorem 1: as the sites' losses differ more,
    averaging's fixed point is farther off, and theirs is the optimum."""
    averaged = federation(FedAvgSpec())
    averaged.play(20)
    assert averaged.error > 0.1
    for spec in (ScaffoldSpec(), FedDynSpec(alpha=1.0), FedDCSpec(alpha=1.0)):
        toy = federation(spec)
        toy.play(20)
        assert toy.error < 1e-3, spec.name


def test_a_larger_proximal_term_drifts_less() -> None:
    errors = []
    for mu in (0.0, 1.0):
        toy = federation(FedProxSpec(mu=mu))
        toy.play(30)
        errors.append(toy.error)
    assert errors[0] > 1.1 * errors[1] > 0


def test_scaffold_finds_the_optimum_though_a_site_is_away_every_other_round() -> None:
    toy = federation(ScaffoldSpec())
    for _ in range(30):
        toy.play(1, away={1})
        toy.play(1)
    # With a site away the others' mean is what a round moves to; what is held against it are the control variates.
    assert toy.error < 0.02


def test_the_common_control_variate_is_the_mean_of_the_sites_own() -> None:
    toy = federation(ScaffoldSpec())
    toy.play(1, away={2})
    toy.play(3)
    own = np.mean([site.kept["control:w"].numpy() for site in toy.sites], axis=0)
    np.testing.assert_allclose(toy.tensors["control:w"], own, rtol=0, atol=1e-5)


def test_the_contrastive_term_is_the_papers() -> None:
    """Li et al. 2021, equation 3, on a net whose representation is its input."""
    rule = rule_of(MoonSpec(mu=2.0, temperature=0.7))
    net = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.Tanh(), torch.nn.Conv3d(3, 1, 1))
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 2, 2, 2, 2)).astype(np.float32))
    previous = copy.deepcopy(net)
    rule.begin_round(net, {}, {})
    net(images)
    assert rule.extra_loss(images) is None  # a first round has nothing before it
    with torch.no_grad():
        for one in net.parameters():
            one.mul_(1.5)
    kept = rule.end_round(1).kept
    common = copy.deepcopy(previous)
    rule.begin_round(common, {}, kept)
    with torch.no_grad():
        next(common.parameters()).add_(0.3)
    common(images)
    found = rule.extra_loss(images)
    assert found is not None
    assert found.requires_grad
    z, z_common, z_previous = (one[:2](images).flatten(2).mean(2) for one in (common, previous, net))
    near, far = (torch.nn.functional.cosine_similarity(z, other) / 0.7 for other in (z_common, z_previous))
    expected = 2.0 * -torch.log(near.exp() / (near.exp() + far.exp())).mean()
    torch.testing.assert_close(found, expected)
    rule.end_round(1)
    assert not common[2]._forward_pre_hooks


def test_a_personal_model_is_trained_as_the_paper_says() -> None:
    """Li et al. 2021, algorithm 1: v = v - rate * (gradient at v + lambda * (v - received)), on the round's batches."""

    class Squares:
        """A task: the mean of the squared outputs' distances from the labels."""

        def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return ((logits - labels) ** 2).mean()

    rule, rate, mu = rule_of(DittoSpec(mu=0.3)), 0.1, 0.3
    net = torch.nn.Linear(2, 1, bias=False)
    received = net.weight.detach().numpy().astype(float)
    images, labels = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([[1.0], [2.0]])
    given = [torch.tensor(one, dtype=torch.float32) for one in (images, labels)]
    own, kept = received.copy(), {}
    for _round in range(2):
        rule.begin_round(net, {}, kept)
        rule.set_pace(Training(optimizer=Optimizer(name="SGD", momentum=0.0)), rate, 3)
        for _step in range(3):
            rule.after_step([(given[0], given[1])], Squares())  # type: ignore[arg-type]
            slope_ = 2 * (images @ own.T - labels).T @ images / len(images)
            own = own - rate * (slope_ + mu * (own - received))
        kept = dict(rule.end_round(3).kept)
    np.testing.assert_allclose(kept["weight"].numpy(), own, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(net.weight.detach().numpy(), received)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_what_keeps_something_of_earlier_rounds_says_that_it_remembers(spec: type[StrategySpec]) -> None:
    made = spec.model_validate({"bound": 1.0} if "bound" in spec.model_fields else {})
    assert made.remembers == (bool(strategy_of(made).parts) or rule_of(made).remembers or made.alters_tensors)
