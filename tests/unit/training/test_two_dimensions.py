"""Nets in 2D: patches are parts of slices, and a volume is predicted slice by slice along z."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from trainer_rig import experiment

from messages.experiment import Experiment
from site_agent.training.cases.cache import MappedCase
from site_agent.training.cases.preprocess import Geometry
from site_agent.training.cases.sampling import Sampler
from site_agent.training.tasks.base import Inference, predict_logits
from site_agent.training.tasks.registry import learner_for

SHAPE = (20, 18, 5)
GEOMETRY = Geometry(SHAPE, ((0, 20), (0, 18), (0, 5)), (1.0, 1.0, 1.0), ((0, False), (1, False), (2, False)))


def flat(**training: Any) -> Experiment:
    plain = experiment().as_plain()
    plain["training"] |= {"patch": [8, 8], "batch": 6, "foreground_share": 1.0, **training}
    return Experiment.model_validate(plain)


def volume(channels: int) -> MappedCase:
    """Each voxel says its slice, and the label lies in slice 3 alone."""
    image = np.broadcast_to(np.arange(SHAPE[2], dtype=np.float32), (channels, *SHAPE)).copy()
    label = np.zeros(SHAPE, np.uint8)
    label[4:12, 4:12, 3] = 1
    return MappedCase("case", image, label, label, np.flatnonzero(label).astype(np.int32), GEOMETRY)


def test_a_patch_is_part_of_one_slice_and_foreground_is_found_in_its_own() -> None:
    one = flat()
    sampler = Sampler([volume(4)] * 6, one.training, one.augmentation.model_copy(update={"flip": 0.5}), 1)
    plain = Sampler([volume(4)] * 6, one.training, type(one.augmentation)(), 1)
    for made in (sampler, plain):
        images, labels = made.draw_step(0)[0]
        assert images.shape == (6, 4, 8, 8)
        assert labels.shape == (6, 8, 8)
    assert (images == 3).all()
    assert (labels.flatten(1) == 1).any(1).all()


def test_a_volume_is_predicted_slice_by_slice() -> None:
    class Says(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[2:] == (8, 8)
            return torch.cat([images[:, :1], -images[:, :1]], 1)

    one = flat()
    image = torch.from_numpy(volume(4).image)
    logits = predict_logits(Says(), image, Inference.of_experiment(one), torch.device("cpu"))
    assert logits.shape == (1, 2, *SHAPE)
    assert torch.allclose(logits[0, 0], image[0], atol=1e-4)
    assert torch.allclose(logits[0, 1], -image[0], atol=1e-4)


def test_the_loss_and_the_score_of_a_segmentation_know_two_dimensions() -> None:
    one = flat()
    learner = learner_for(one)
    labels = torch.zeros((2, 8, 8), dtype=torch.uint8)
    labels[:, :4] = 1
    assert float(learner.loss(torch.zeros((2, one.task.out_channels, 8, 8)), labels)) > 0

    class Bright(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images[:, :1] - 2.5).repeat(1, one.task.out_channels, 1, 1)

    row = learner.score_case(Bright(), volume(4), torch.device("cpu"))
    assert not row.failed
    assert {region.reference_empty for region in row.regions.values()} <= {True, False}
    assert max(region.dice or 0.0 for region in row.regions.values()) > 0
