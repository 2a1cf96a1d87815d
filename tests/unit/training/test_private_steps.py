"""Steps under differential privacy: what one patient adds is bounded, who is drawn, and that nothing else gets in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from round_rig import STEPS, Site, cut_off, experiment, make_cases, private_experiment

from messages.experiment import Experiment
from messages.secure.section import DifferentialPrivacy
from messages.secure.shared import SHARED_UNITS
from messages.tensors.codecs import CODECS, Tensor
from nets.build import build_net
from site_agent.privacy.grid import CLIP_UNITS
from site_agent.privacy.keys import derive_keys
from site_agent.training import private
from site_agent.training.cases.cache import CachedCase
from site_agent.training.private import (
    Draw,
    NetNotPrivate,
    Patients,
    PrivateSteps,
    clip_to_grid,
    noise_update,
    require_private_net,
)
from site_agent.training.tasks.segmentation import SegmentationLearner

CPU = torch.device("cpu")
GROUPS = ([0, 3], [1], [2])
"""Three patients; the first has two studies."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    return make_cases(tmp_path_factory.mktemp("cases"), 4)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**32), length=st.floats(1e-12, 1e12), clip=st.floats(1e-3, 1e3))
def test_a_gradient_is_never_longer_on_the_grid_than_the_clip(size: int, seed: int, length: float, clip: float) -> None:
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    units = clip_to_grid(drawn / drawn.norm().clamp(min=1e-9) * length, clip).tolist()
    assert sum(one * one for one in units) <= CLIP_UNITS**2  # in whole numbers: no rounding here


def test_a_gradient_shorter_than_the_clip_keeps_its_length_and_a_longer_one_its_direction() -> None:
    short, long = torch.tensor([0.3, -0.4]), torch.tensor([30.0, -40.0])
    assert clip_to_grid(short, 1.0).tolist() == [round(0.3 * CLIP_UNITS), round(-0.4 * CLIP_UNITS)]
    assert clip_to_grid(long, 1.0).tolist() == pytest.approx([0.6 * CLIP_UNITS, -0.8 * CLIP_UNITS], abs=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_adds_nothing(value: float) -> None:
    assert clip_to_grid(torch.tensor([1.0, value, 0.5]), 1.0).tolist() == [0, 0, 0]


def steps_of(cases: Sequence[CachedCase], groups: Sequence[Sequence[int]] = GROUPS, **dp: Any) -> PrivateSteps:
    """The steps of a round of one net, without noise to speak of."""
    chosen = private_experiment(**{"noise_multiplier": 1e-12, "clip_norm": 0.01} | dp)
    net = build_net({"name": chosen.net.name, **chosen.net.parameters}, 2, 2, seed=1)
    patients = Patients(groups, len(groups), derive_keys(b"secret", "work", groups))
    found = chosen.privacy.dp
    assert found is not None
    return PrivateSteps(net, net, SegmentationLearner(chosen), cases, chosen, found, patients, CPU)


def sum_of(steps: PrivateSteps, drawn: Sequence[int]) -> torch.Tensor:
    """What the optimiser gets of these patients, in whole steps of the grid."""
    steps.add_gradients(Draw(0, tuple(drawn)), torch.amp.GradScaler("cpu", enabled=False))
    flat = torch.cat([one.grad.reshape(-1).double() for one in steps._trained if one.grad is not None])
    dp = steps._settings
    return flat * dp.sample_rate * len(steps._patients.groups) / dp.clip_norm * CLIP_UNITS


def test_a_patient_changes_the_sum_by_at_most_the_clip_and_nothing_of_the_others(cases: list[CachedCase]) -> None:
    steps = steps_of(cases)
    alone = {patient: sum_of(steps, [patient]) for patient in range(3)}
    both, all_three = sum_of(steps, [0, 2]), sum_of(steps, [0, 1, 2])
    assert torch.allclose(all_three - both, alone[1], atol=0.01)  # float32 is what the optimiser gets
    for one in alone.values():
        assert 0.9 * CLIP_UNITS < one.norm() <= CLIP_UNITS * (1 + 1e-6)  # all are longer than the clip before it
    assert sum_of(steps, []).norm() < 1e-3  # nobody: nothing but the noise


def test_the_noise_that_the_optimiser_gets_is_as_large_as_the_file_says(cases: list[CachedCase]) -> None:
    steps = steps_of(cases, noise_multiplier=1.5)
    noise = sum_of(steps, []) / (1.5 * CLIP_UNITS)
    count = noise.numel()
    assert count > 5000
    assert abs(float(noise.square().mean()) - 1) < 4 * (2 / count) ** 0.5  # half of it would be 0.25
    assert abs(float(noise.mean())) < 4 / count**0.5


def shared_steps(cases: Sequence[CachedCase], **dp: Any) -> PrivateSteps:
    """The step of a round whose noise three sites share, one of which may collude; everybody is drawn."""
    plain = private_experiment(sample_rate=1.0, clip_norm=0.01).as_plain()
    plain["sites"], plain["quorum"] = ["site-a", "site-b", "site-c"], {"least_sites": 3}
    plain["plan"]["weight_by"] = "equal"
    plain["training"] |= {"local_steps": 1}
    plain["training"]["optimizer"] |= {"name": "SGD", "momentum": 0.0, "weight_decay": 0.0}
    plain["privacy"]["secure_aggregation"] = "masks"
    plain["privacy"]["dp"] |= {"noise": "shared", "colluding": 1} | dp
    chosen = Experiment.model_validate(plain)
    net = build_net({"name": chosen.net.name, **chosen.net.parameters}, 2, 2, seed=1)
    patients = Patients(GROUPS, len(GROUPS), derive_keys(b"secret", "work", GROUPS))
    found = chosen.privacy.dp
    assert found is not None
    return PrivateSteps(net, net, SegmentationLearner(chosen), cases, chosen, found, patients, CPU)


def test_the_words_of_a_shared_round_are_the_clipped_sum_and_a_part_of_the_noise_in_whole_numbers(
    cases: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One net has tens of thousands of weights: their noise is as large as the part of one of two honest sites."""
    steps = shared_steps(cases, noise_multiplier=2.0)
    noised = np.concatenate([one.ravel() for one in steps.sum_round().values()]).astype(np.int64)
    monkeypatch.setattr(private, "draw_discrete", lambda _key, count, _deviation: np.zeros(count, dtype=np.int64))
    silent = np.concatenate([one.ravel() for one in steps.sum_round().values()]).astype(np.int64)
    each = [clip_to_grid(steps._gradient_of(0, patient), 0.01, SHARED_UNITS) for patient in range(3)]
    assert silent.tolist() == sum(each).tolist()  # type: ignore[union-attr]  # three tensors
    assert all(int(torch.dot(one, one)) <= SHARED_UNITS**2 for one in each)
    noise = (noised - silent) / (2.0 * SHARED_UNITS)
    assert noise.size > 5000
    assert abs(float(np.mean(noise**2)) - 0.5) < 4 * 0.5 * (2 / noise.size) ** 0.5


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e6])
def test_the_words_of_a_whole_site_are_its_difference_no_longer_than_the_clip(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "draw_discrete", lambda _key, count, _deviation: np.zeros(count, dtype=np.int64))
    dp = DifferentialPrivacy(unit="site", noise="shared", noise_multiplier=2.0, clip_norm=0.5, sample_rate=1.0)
    model = {"one": np.ones((3, 4), dtype=np.float32), "two": np.zeros(50, dtype=np.float32)}
    moves = np.random.default_rng(1).standard_normal(62).astype(np.float32) * np.float32(factor)
    trained = {"one": model["one"] + moves[:12].reshape(3, 4), "two": model["two"] + moves[12:]}
    received = {
        name: Tensor(CODECS["float32"], array.dtype, array.shape, np.frombuffer(array.tobytes(), np.uint8))
        for name, array in model.items()
    }
    words = noise_update(trained, received, dp, private_experiment(), derive_keys(b"secret", "work", GROUPS))
    flat = np.concatenate([words["one"].ravel(), words["two"]]).astype(np.int64)
    assert int(flat @ flat) <= SHARED_UNITS**2
    difference = np.concatenate([(trained[name].astype(np.float64) - model[name]).ravel() for name in model])
    scale = min(1.0, 0.5 / float(np.linalg.norm(difference)))
    assert flat == pytest.approx(difference * scale / 0.5 * SHARED_UNITS, abs=2)


def test_several_studies_of_a_patient_count_once(cases: list[CachedCase]) -> None:
    """Were cases the unit, a patient with four studies would move the sum by four clips."""
    steps = steps_of(cases, [[0, 1, 2, 3]])
    assert steps._cut_patches(0, 0)[0].shape == (
        2,
        2,
        8,
        8,
        8,
    )  # `patches_per_patient`, whatever the studies
    assert sum_of(steps, [0]).norm() <= CLIP_UNITS * (1 + 1e-6)


def test_over_the_steps_every_study_of_a_patient_is_seen(cases: list[CachedCase]) -> None:
    steps, seen = steps_of(cases, [[0, 1, 2, 3]]), set[int]()
    steps._sampler.cut_cases = lambda chosen, number: seen.update(chosen)  # type: ignore[method-assign,assignment,return-value]
    for step in range(20):
        steps._cut_patches(step, 0)
    assert seen == {0, 1, 2, 3}


def test_the_same_work_gives_the_same_bits_and_other_work_other_noise(tmp_path: Path, cases: list[CachedCase]) -> None:
    def train(key: str, secret: bytes = b"secret", groups: Sequence[Sequence[int]] = GROUPS) -> dict[str, bytes]:
        site = Site(tmp_path, cases, private_experiment(sample_rate=1.0))  # all are drawn: only noise can differ
        site.key, site.secret, site.groups = key, secret, groups
        site.start(1, every=None)
        return site.weights()

    calm = train("one")
    assert train("one") == calm
    others = [train("two"), train("one", b"another"), train("one", groups=[[1], [0, 3], [2]])]
    for other in others:
        assert all(other[name] != calm[name] for name in calm)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx"])
@pytest.mark.parametrize("optimizer", [{"name": "Adam", "reset": False}, {"name": "SGD", "momentum": 0.9}])
def test_a_private_round_cut_off_after_every_step_ends_with_the_bits_of_a_calm_one(
    tmp_path: Path, cases: list[CachedCase], optimizer: dict[str, Any], strategy: str
) -> None:
    chosen = private_experiment(None, optimizer, strategy)
    calm, cut = Site(tmp_path / "calm", cases, chosen), Site(tmp_path / "cut", cases, chosen)
    for number in (1, 2):
        expected = calm.start(number, every=None)
        assert cut_off(cut, number, list(range(1, STEPS + 1))) == expected
        assert cut.weights() == calm.weights()
    assert cut.said("resumed") == 2 * list(range(1, STEPS + 1))


def test_the_loss_is_withheld_and_the_steps_do_not_depend_on_who_is_there(
    tmp_path: Path, cases: list[CachedCase]
) -> None:
    site = Site(tmp_path, cases, private_experiment())
    found = site.start(1, every=None)
    assert (found.loss, found.steps, found.epochs) == (0.0, STEPS, STEPS / 2)


def test_without_its_patients_a_private_file_is_not_trained(tmp_path: Path, cases: list[CachedCase]) -> None:
    site = Site(tmp_path, cases, private_experiment())
    site.patients_of = lambda _number: None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="go together"):
        site.start(1)
    plain = Site(tmp_path, cases, experiment({"name": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1]}, {}))
    plain.start(1)


def test_a_net_that_mixes_patients_is_refused() -> None:
    for net in (
        {"name": "UNet", "channels": [4, 8], "strides": [2], "norm": "batch"},
        {"name": "ResNet18"},
    ):
        with pytest.raises(NetNotPrivate, match="keeps statistics"):
            require_private_net(build_net(net, 2, 2, seed=1))
    require_private_net(build_net({"name": "UNet", "channels": [4, 8], "strides": [2]}, 2, 2, seed=1))
    with pytest.raises(NetNotPrivate):
        require_private_net(torch.nn.Sequential(torch.nn.InstanceNorm3d(2, track_running_stats=True)))
