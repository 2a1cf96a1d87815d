"""What an expert may ask of local training does what it says, and a round that was cut off ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from round_rig import UNET, Site, cut_off, experiment, make_cases

from messages.tasks.optimisers import Optimizer
from nets.build import build_net
from site_agent.training.cases.cache import CachedCase
from site_agent.training.engine import train_round
from site_agent.training.optimise import make_optimizer
from site_agent.training.tasks.base import Learner
from site_agent.training.tasks.segmentation import SegmentationLearner

PLAIN: dict[str, Any] = {"name": "UNet", "channels": [4, 8], "strides": [2]}
RESUMED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gathered gradients": ({"name": "NAdam"}, {"accumulate": 2}),
    "bfloat16": ({"name": "RAdam", "beta1": 0.8}, {"precision": "bfloat16"}),
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
