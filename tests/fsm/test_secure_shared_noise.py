"""Secure rounds whose noise all sites share: the model moves by the sum of whole numbers and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_consortium import MODEL, PRIVACY, count_training, digests_of, run_secure, start_secure
from signed_consortium import THREE
from virtual_consortium import CASES, VirtualConsortium, read_events

from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.experiment import Experiment
from messages.secure.shared import SHARED_UNITS
from nets.digest import arrays_digest
from site_agent.privacy.accountant import find_epsilon
from site_agent.training.null import round_addend, word_of

DP: dict[str, Any] = {"noise_multiplier": 4.0, "clip_norm": 0.5, "sample_rate": 0.25, "noise": "shared", "colluding": 1}
TRAINING = {"local_steps": 1, "optimizer": {"name": "SGD", "lr": 0.5, "momentum": 0.0}}
CHANGES: dict[str, Any] = {
    "privacy": PRIVACY | {"dp": DP}, "training": TRAINING, "plan": {"weight_by": "equal"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared(folder: Path) -> VirtualConsortium:
    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium, **CHANGES)
        consortium.until("experiment-complete", 7200.0)

    return run_secure(folder, work)


def seed_of(consortium: VirtualConsortium) -> int:
    content = next(one.body for _at, one in consortium.of("experiment-accepted"))
    assert isinstance(content, kinds.ExperimentAccepted)
    return Experiment.model_validate(content.experiment).seed


def step(model: dict[str, Any], number: int, seed: int) -> dict[str, Any]:
    """A round, reckoned plainly: the words' sum, times clip / (units * rate * patients), times the learning rate."""
    words = sum(word_of(round_addend(seed, site, number)) for site in THREE)
    patients = sum(count_training(CASES[site]) for site in THREE)
    unit = -0.5 * 0.5 / 0.25 / SHARED_UNITS / patients
    return {name: (array.astype(np.float64) + words * unit).astype(np.float32) for name, array in model.items()}


def test_the_model_moves_by_the_sum_of_all_words_over_the_announced_patients(shared: VirtualConsortium) -> None:
    seed = seed_of(shared)
    first = step(MODEL, 1, seed)
    assert digests_of(shared) == [arrays_digest(first), arrays_digest(step(first, 2, seed))]


def test_replay_takes_the_same_steps_again(shared: VirtualConsortium, folder: Path) -> None:
    assert isinstance(shared, VirtualConsortium)
    place = folder / "coordinator"
    steps = list(replay(open_readonly(place), Blobs(place / "blobs")))
    assert [one.problem for one in steps if not one.agrees] == []
    checks = [one.aggregate for one in steps if one.aggregate is not None]
    assert [(one.round, one.status, one.agrees) for one in checks] == [(n, Status.RECOMPUTED, True) for n in (1, 2)]


def test_where_a_site_is_the_unit_the_model_moves_by_the_mean_of_all_and_a_round_is_one_step(tmp_path: Path) -> None:
    dp = DP | {"unit": "site", "sample_rate": 1.0}

    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium, privacy=PRIVACY | {"dp": dp}, plan={"weight_by": "equal"})
        consortium.until("experiment-complete", 7200.0)

    consortium = run_secure(tmp_path, work)
    seed = seed_of(consortium)
    model = MODEL
    for number in (1, 2):
        words = sum(word_of(round_addend(seed, site, number)) for site in THREE)
        unit = 0.5 / SHARED_UNITS / 3
        model = {name: (array.astype(np.float64) + words * unit).astype(np.float32) for name, array in model.items()}
        assert digests_of(consortium)[number - 1] == arrays_digest(model)
    bodies = [one.body for one in read_events(tmp_path, THREE)]
    plans = [one.privacy for one in bodies if isinstance(one, kinds.Joined)]
    assert [(plan.unit, plan.steps) for plan in plans if plan is not None] == 3 * [("site", 2)]
    spent = [one.epsilon for one in bodies if isinstance(one, kinds.WeightsReady) and one.transfer.round == 2]
    assert spent == pytest.approx(3 * [find_epsilon(4.0, 1.0, 2, 1e-5)])


def test_each_site_tells_the_epsilon_of_the_sum_and_that_it_is_one_of_the_sum(
    shared: VirtualConsortium, folder: Path
) -> None:
    assert isinstance(shared, VirtualConsortium)
    bodies = [one.body for one in read_events(folder, THREE)]
    plans = [one.privacy for one in bodies if isinstance(one, kinds.Joined)]
    assert len(plans) == 3
    for plan in plans:
        assert plan is not None
        assert (plan.noise, plan.colluding, plan.steps) == ("shared", 1, 2)
        assert plan.epsilon == pytest.approx(find_epsilon(4.0, 0.25, 2, 1e-5))
    spent = [one.epsilon for one in bodies if isinstance(one, kinds.WeightsReady) and one.transfer.round == 2]
    assert spent == pytest.approx(3 * [find_epsilon(4.0, 0.25, 2, 1e-5)])
