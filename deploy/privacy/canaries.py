"""Canaries through the private training step: patients whose gradients are known, trained on by the engine itself.

A canary is a patient of two studies. Its gradient is a direction of its own, over all tensors of a net made for this,
times the clip or far more. Its image holds its number, and its label whether it is included: one that is not has a
gradient of zero, as if its data were not there. All else is the round's own code: draws, patches, backward pass,
clipping, grid, noise, divisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from messages.experiment import Experiment
from messages.secure.section import DifferentialPrivacy
from messages.tasks.augmentation import Augmentation
from messages.tasks.base import Split, TaskRows
from site_agent.privacy.keys import derive_keys
from site_agent.training.cases.cache import CachedCase, MappedCase
from site_agent.training.cases.preprocess import Geometry
from site_agent.training.engine import train_round
from site_agent.training.private import Patients
from site_agent.training.strategies.base import LocalRule
from site_agent.training.tasks.base import Learner

LENGTHS = {"as long as the clip": 1.0, "30 times the clip": 30.0, "1,000 times the clip": 1000.0}
"""Kinds of canaries: how long their gradients are before they are clipped."""
SPARE = 200
"""Weights of each tensor that no gradient reaches: they show the noise alone."""
STUDIES = 2
_TENSORS = 4
_PATCH = (2, 2, 2)


@dataclass
class Trial:
    """What the canaries showed in a run.

    Attributes:
        included: (canaries,), the coins. scores: (canaries,), what all that was released shows of each.
        noise: (steps, 4 · SPARE), in units of the clip. drawn: (steps, canaries).
        seen: kind → sum of what a step showed of a canary that was drawn into it, in units of the clip; how many.
    """

    included: NDArray[np.bool_]
    scores: NDArray[np.float64]
    noise: list[NDArray[np.float32]] = field(default_factory=list)
    drawn: list[NDArray[np.bool_]] = field(default_factory=list)
    seen: dict[str, tuple[float, int]] = field(default_factory=dict)

    def list_means(self) -> dict[str, tuple[float, int]]:
        """Kind → the mean of what was seen, and of how many."""
        return {kind: (total / max(1, count), count) for kind, (total, count) in self.seen.items()}


class CanaryNet(nn.Module):
    """Four tensors of different shapes; each canary's loss is linear in one weight of each."""

    def __init__(self, canaries: int, clip_norm: float) -> None:
        super().__init__()
        width = canaries + SPARE
        shapes = ((width,), (width, 1), (1, width), (width, 1, 1))
        self.tensors = nn.ParameterList([nn.Parameter(torch.zeros(shape)) for shape in shapes])
        lengths = np.resize(list(LENGTHS.values()), canaries) * clip_norm / _TENSORS**0.5
        self._lengths = torch.from_numpy(lengths).float()
        self.numbers: set[int] = set()
        """Of the canaries that were asked for since the last step."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of images (B, 1, *patch) that hold canaries' numbers."""
        chosen = images.flatten(1).mean(1).round().long()
        self.numbers.update(chosen.tolist())
        weights = torch.stack([one.flatten()[chosen] for one in self.tensors])
        return weights.sum(0) * self._lengths[chosen]


class CanaryLearner(Learner):
    """The net's outputs are losses; those of canaries that are not included count nothing."""

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits * (labels.flatten(1).float().mean(1) > 0.5)).mean()

    def score_case(self, net: nn.Module, case: CachedCase, device: torch.device) -> Any:
        raise NotImplementedError("a canary has no score")

    def failed_case(self, name: str) -> Any:
        raise NotImplementedError("a canary has no score")

    def rows_of(self, split: Split, cases: list[Any]) -> TaskRows:
        raise NotImplementedError("a canary has no score")


class Watcher(LocalRule):
    """Sees each step's gradient as the optimiser gets it: that is what a step releases."""

    def __init__(self, net: CanaryNet, trial: Trial, in_clips: float, tell: Callable[[int], None]) -> None:
        self._net, self._trial, self._in_clips, self._tell = net, trial, in_clips, tell
        self._kinds = np.resize(np.arange(len(LENGTHS)), len(trial.included))

    def adjust_gradients(self) -> None:
        trial, count = self._trial, len(self._trial.included)
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._net.tensors]
        released = np.stack([one.double().flatten().numpy() for one in gradients]) * self._in_clips
        shown = released[:, :count].sum(axis=0) / _TENSORS**0.5
        drawn = np.zeros(count, dtype=np.bool_)
        drawn[list(self._net.numbers)] = True
        self._net.numbers.clear()
        trial.scores += shown
        trial.noise.append(released[:, count:].ravel().astype(np.float32))
        trial.drawn.append(drawn)
        for number, kind in enumerate(LENGTHS):
            chosen = shown[drawn & trial.included & (self._kinds == number)]
            total, seen = trial.seen.get(kind, (0.0, 0))
            trial.seen[kind] = (total + float(chosen.sum()), seen + len(chosen))
        self._tell(len(trial.drawn))


def run_canaries(
    experiment: Experiment,
    dp: DifferentialPrivacy,
    canaries: int,
    rounds: int,
    secret: bytes,
    tell: Callable[[int], None],
) -> Trial:
    """Train on canaries for so many of the experiment's rounds, under its `[privacy.dp]` and its optimiser.

    Args:
        secret: coins, draws and noise follow from it. tell: is told how many steps are done.
    """
    device = torch.device("cpu")
    coins = np.random.default_rng(np.frombuffer(secret, dtype=np.uint32))
    trial = Trial(coins.random(canaries) < 0.5, np.zeros(canaries))
    net = CanaryNet(canaries, dp.clip_norm)
    asked = _simplify(experiment, dp)
    groups = [tuple(range(STUDIES * one, STUDIES * (one + 1))) for one in range(canaries)]
    cases = [_make_study(one, bool(trial.included[one])) for one in range(canaries) for _ in range(STUDIES)]
    watcher = Watcher(net, trial, dp.sample_rate * canaries / dp.clip_norm, tell)
    for number in range(1, rounds + 1):
        patients = Patients(groups, canaries, derive_keys(secret, f"audit, round {number}", groups))
        train_round(
            net,
            cases,
            asked,
            CanaryLearner(asked),
            round_number=number,
            site="audit",
            device=device,
            rule=watcher,
            patients=patients,
        )
    return trial


def _simplify(experiment: Experiment, dp: DifferentialPrivacy) -> Experiment:
    """The experiment with patches that hold numbers: small, and not varied; and with these settings of noise."""
    training = experiment.training.model_copy(update={"patch": _PATCH, "precision": "float32"})
    privacy = experiment.privacy.model_copy(update={"dp": dp})
    update = {"training": training, "augmentation": Augmentation(), "privacy": privacy}
    return experiment.model_copy(update=update)


def _make_study(number: int, included: bool) -> CachedCase:
    label = np.full(_PATCH, included, dtype=np.uint8)
    return MappedCase(
        name=f"canary-{number}",
        image=np.full((1, *_PATCH), number, dtype=np.float32),
        label=label,
        reference=label,
        foreground=np.flatnonzero(label).astype(np.int32),
        geometry=Geometry(_PATCH, ((0, 2), (0, 2), (0, 2)), (1.0, 1.0, 1.0)),
    )
