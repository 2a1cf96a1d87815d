"""What an expert may ask of local training does what it says, and a round that was cut off ends with the same bits."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from round_rig import CPU, UNET, Site, cut_off, experiment, make_cases

from messages.tasks.augmentation import Augmentation
from messages.tasks.optimisers import Optimizer
from nets.build import build_net
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.sampling import Sampler
from site_agent.training.compiling import can_compile, compile_net
from site_agent.training.engine import train_round
from site_agent.training.optimise import make_optimizer
from site_agent.training.tasks.base import Inference, Learner, loss_of_outputs, predict_logits
from site_agent.training.tasks.segmentation import SegmentationLearner

PLAIN: dict[str, Any] = {"name": "UNet", "channels": [4, 8], "strides": [2]}
DEEP = {"name": "DynUNet", "filters": [4, 4, 8, 8], "strides": [2, 2, 2], "deep_supervision": 2}
RESUMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gathered gradients": ({"name": "NAdam"}, {"accumulate": 2}),
    "bfloat16": ({"name": "RAdam", "beta1": 0.8}, {"precision": "bfloat16"}),
    "foreground by batch": ({}, {"foreground_by": "batch"}),
    "a mean of weights": ({}, {"ema": 0.5}),
    "nnU-Net's augmentation": ({}, {"augmentation": {"preset": "nnunet", "elastic": {"chance": 1, "between": [0, 3]}}}),
    "RMSprop": ({"name": "RMSprop", "beta2": 0.9}, {}),
}
"""What is asked → the optimiser, and keys of `[training]`."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    return make_cases(tmp_path_factory.mktemp("cases"))


@pytest.mark.parametrize("asked", RESUMED)
def test_a_round_cut_off_ends_with_the_bits_of_a_calm_one(tmp_path: Path, cases: list[CachedCase], asked: str) -> None:
    chosen = experiment(UNET, RESUMED[asked][0], **RESUMED[asked][1])
    calm, cut, plain = (Site(tmp_path / name, cases, chosen) for name in ("calm", "cut", "plain"))
    plain.experiment = experiment(UNET, {})
    assert cut_off(cut, 1, [1, 3]) == calm.start(1, every=None)
    assert cut.said("resumed") == [1, 3]
    plain.start(1, every=None)
    assert cut.weights() == calm.weights() != plain.weights()


class Apart(SegmentationLearner):
    """Each patch counts for itself."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((logits - 0.5) ** 2).mean()


def trained(cases: list[CachedCase], learner: type[Learner] = Apart, **training: Any) -> dict[str, torch.Tensor]:
    chosen = experiment(PLAIN, {"name": "SGD"}, **{"patch": [16, 16, 16], "clip_norm": None, **training})
    chosen = chosen.model_copy(update={"augmentation": type(chosen.augmentation)()})
    net = build_net(PLAIN, 2, 2, seed=1)
    train_round(net, cases, chosen, learner(chosen), round_number=1, site="a", device=torch.device("cpu"))
    return net.state_dict()


def test_gradients_of_several_batches_are_those_of_one_large_batch(cases: list[CachedCase]) -> None:
    """Also where the last batch of an epoch is smaller: three cases, a patch holds a whole one."""
    for steps in (1, 3):
        gathered = trained(cases, batch=2, accumulate=2, local_steps=steps)
        large = trained(cases, batch=4, local_steps=steps)
        for name, one in large.items():
            torch.testing.assert_close(gathered[name], one, rtol=1e-4, atol=1e-6)
    small = trained(cases, batch=2, local_steps=1)
    assert any(not torch.allclose(small[name], one) for name, one in trained(cases, batch=4, local_steps=1).items())


def test_an_epochs_steps_are_counted_by_the_patches_that_make_one() -> None:
    training = experiment(
        PLAIN, {}, local_steps=None, local_epochs=2, batch=2, accumulate=3, patches_per_case=1
    ).training
    assert [training.count_steps(cases) for cases in (1, 6, 7)] == [2, 2, 4]


def test_an_optimiser_gets_what_the_file_says_and_else_what_it_always_had() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]

    def made(**said: Any) -> dict[str, Any]:
        return dict(make_optimizer(Optimizer(**said), weights, 0.1).defaults)

    assert made(name="SGD")["nesterov"] is True
    assert made(name="SGD", momentum=0.0)["nesterov"] is False
    assert made(name="SGD", nesterov=False)["nesterov"] is False
    assert (made(name="Adam")["betas"], made(name="Adam")["eps"]) == ((0.9, 0.999), 1e-8)
    assert made(name="NAdam", beta1=0.8, beta2=0.99, epsilon=1e-6)["betas"] == (0.8, 0.99)
    assert made(name="RMSprop", beta2=0.95)["alpha"] == 0.95


def test_the_outputs_of_a_nets_levels_count_by_halves() -> None:
    class Mean(Apart):
        def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return logits.mean()

    learner, labels = Mean(experiment(PLAIN, {})), torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    levels = torch.stack([torch.full((1, 2, 4, 4, 4), value) for value in (7.0, 14.0, 0.0)], dim=1)
    assert loss_of_outputs(learner, levels, labels).item() == pytest.approx(7 * 4 / 7 + 14 * 2 / 7)
    assert loss_of_outputs(learner, levels[:, 1], labels).item() == pytest.approx(14)


def test_a_net_with_deep_supervision_trains_every_head_and_answers_with_one() -> None:
    net = build_net(DEEP, 2, 2, seed=1)
    images = torch.randn(1, 2, 16, 16, 16)
    assert net(images).shape == (1, 3, 2, 16, 16, 16)
    assert net.eval()(images).shape == (1, 2, 16, 16, 16)
    copy.deepcopy(net.train())  # nothing of the pass is left in it


def test_mirror_images_are_asked_and_their_answers_mirrored_back() -> None:
    class Ramp(torch.nn.Module):
        """Says where a voxel lies along the first axis, whatever it is shown."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(images.shape[2]).float().view(1, 1, -1, 1, 1) + 10 * images[:, :1]

    image = torch.arange(8.0).repeat(1, 8, 8, 1)
    asked = Inference((8, 8, 8), 0.0)
    plain, mirrored = (predict_logits(Ramp(), image, replace(asked, mirror=on), CPU) for on in (False, True))
    assert plain[0, 0, 0, 0].tolist() == [10.0 * number for number in range(8)]
    torch.testing.assert_close(mirrored[0, 0], (10 * image + 3.5)[0])


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_each_batch_has_its_share_of_patches_around_foreground(cases: list[CachedCase], batch: int) -> None:
    asked = {"batch": batch, "foreground_share": 0.33, "foreground_by": "batch", "patches_per_case": 5}
    chosen = experiment(PLAIN, {}, **asked)
    sampler = Sampler([Corner(cases[0])] * 3, chosen.training, Augmentation(), key=3)
    due = batch - round(batch * 0.67)
    for step in range(15 // batch):
        ((_, labels),) = sampler.draw_step(step)
        assert labels[batch - due :].flatten(1).any(1).all()
    assert due == {2: 1, 3: 1, 5: 2}[batch]


def test_a_rare_concept_is_drawn_as_often_as_a_frequent_one(cases: list[CachedCase]) -> None:
    asked = {"batch": 1, "foreground_share": 1.0, "foreground_by": "batch", "patches_per_case": 64}
    sampler = Sampler([Corner(cases[0])], experiment(PLAIN, {}, **asked).training, Augmentation(), key=3)
    rare = sum(bool((sampler.draw_step(step)[0][1][0] == 2).any()) for step in range(64))
    assert 20 < rare < 44


def test_a_mean_of_weights_is_what_a_round_leaves(cases: list[CachedCase]) -> None:
    received = build_net(PLAIN, 2, 2, seed=1).state_dict()
    steps = [received, *(trained(cases, local_steps=number) for number in (1, 2, 3))]
    found = trained(cases, local_steps=3, ema=0.75)
    for name, one in found.items():
        mean = steps[0][name]
        for step in steps[1:]:
            mean = 0.75 * mean + 0.25 * step[name]
        torch.testing.assert_close(one, mean, rtol=1e-5, atol=1e-6)


class Corner:
    """A case whose label has a frequent concept in one corner, and one voxel of another in the opposite one."""

    def __init__(self, case: CachedCase) -> None:
        self.name, self.image, self.reference = case.name, np.zeros((2, 30, 30, 30), np.float32), case.reference
        self.geometry, self.truth = case.geometry, case.truth
        self.label = np.zeros((30, 30, 30), np.uint8)
        self.label[:4, :4, :4], self.label[-1, -1, -1] = 1, 2
        self.foreground = np.flatnonzero(self.label).astype(np.int32)


def test_a_compiled_net_trains_the_same_weights(cases: list[CachedCase]) -> None:
    """With the tracer alone: a compiler takes a minute, and tells the same story in other bits."""
    chosen = experiment(PLAIN, {"name": "SGD"}, local_steps=2)
    nets = [build_net(PLAIN, 2, 2, seed=1) for _ in range(2)]
    for net, forward in zip(nets, (None, compile_net(nets[1], backend="eager")), strict=True):
        learner = SegmentationLearner(chosen)
        train_round(net, cases, chosen, learner, round_number=1, site="a", device=CPU, forward=forward)
    for one, other in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def test_where_no_compiler_is_there_that_is_said_and_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert can_compile(CPU, backend="eager")
    assert not can_compile(CPU, backend="no-such-compiler")
    assert capsys.readouterr().err.startswith("compile-unavailable: ")
