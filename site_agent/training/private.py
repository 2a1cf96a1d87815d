"""Steps under differential privacy for each patient (Abadi et al. 2016, algorithm 1), in place of a round's plain ones.

A step: patients are drawn; each one's patches, over all its studies, make one loss and one gradient; that is clipped,
rounded to a grid, and added to the others as integers; then Gaussian noise of the same grid. What the optimiser gets is
the sum over `sample_rate` times the patients as announced, however many were drawn: also none.

Net and loss see one patient at a time. So the others' gradients do not depend on who else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from messages.secure.section import DifferentialPrivacy
from messages.secure.shared import SHARED_UNITS, find_deviation
from messages.tensors.codecs import Tensor
from site_agent.privacy.discrete import draw_discrete
from site_agent.privacy.draws import draw_patients
from site_agent.privacy.grid import CLIP_UNITS, reach_of, steps_per_unit
from site_agent.privacy.keys import RoundKeys, derive_number
from site_agent.privacy.noise import add_noise, key_noise
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.sampling import Batch, Sampler
from site_agent.training.tasks.base import Learner, cast_numbers, loss_of_outputs


class NetNotPrivate(WorkFailed):
    """Something in the net mixes patients; `messages.reasons.Reason.NET_NOT_PRIVATE`."""

    reason = Reason.NET_NOT_PRIVATE


@dataclass(frozen=True, slots=True)
class Patients:
    """Whom a round trains on.

    Attributes:
        groups: for each patient, the numbers of its cases.
        announced: how many the site has said that they are: what a sum is divided by.
        keys: of the round.
    """

    groups: Sequence[Sequence[int]]
    announced: int
    keys: RoundKeys


@dataclass(frozen=True, slots=True)
class Draw:
    """Who is in a step; patients by number, ascending."""

    step: int
    patients: tuple[int, ...]


def require_private_net(net: torch.nn.Module) -> None:
    """Refuse a net that keeps statistics of what it sees: they travel without noise, and mix patients.

    Raises:
        NetNotPrivate: it does.
    """
    for name, one in net.named_modules():
        batch = isinstance(one, torch.nn.modules.batchnorm._BatchNorm)
        if batch or getattr(one, "track_running_stats", False):
            raise NetNotPrivate(
                f"{type(one).__name__} keeps statistics of the patients that it sees",
                where=f"net: {name}",
                advice='Choose norm = "instance" or "group", or a net without batch normalisation',
            )


class PrivateSteps:
    """A round's private steps."""

    def __init__(
        self,
        net: torch.nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        learner: Learner,
        cases: Sequence[CachedCase],
        experiment: Experiment,
        settings: DifferentialPrivacy,
        patients: Patients,
        device: torch.device,
    ) -> None:
        training = experiment.training
        self.steps, self.steps_per_epoch = settings.count_steps(training), settings.steps_per_epoch
        self._settings, self._patients = settings, patients
        self._forward, self._learner, self._device = forward, learner, device
        self._precision = training.precision
        self._sampler = Sampler(cases, training, experiment.augmentation, derive_number(patients.keys.cuts))
        self._net, self._least_sites = net, experiment.least_sites
        self._trained = [one for one in net.parameters() if one.requires_grad]

    def draw_steps(self, first: int) -> Iterator[Draw]:
        """The round's steps from `first` on."""
        count, keys = len(self._patients.groups), self._patients.keys
        for step in range(first, self.steps):
            drawn = draw_patients(keys.draws, step, count, self._settings.sample_rate)
            yield Draw(step, tuple(map(int, drawn)))

    def add_gradients(self, draw: Draw, _scaler: torch.amp.GradScaler) -> torch.Tensor:
        """Set a step's gradient; its loss is withheld, and told as 0."""
        total = self._sum_gradients(draw, CLIP_UNITS)
        noised = add_noise(self._patients.keys.noise, draw.step, total, self._settings.noise_multiplier)
        expected = self._settings.sample_rate * self._patients.announced
        mean = torch.from_numpy(noised).to(self._device) / (steps_per_unit(self._settings.clip_norm) * expected)
        parts = torch.split(mean, [one.numel() for one in self._trained])
        for one, part in zip(self._trained, parts, strict=True):
            one.grad = part.view_as(one).to(one.dtype)
        return torch.zeros((), device=self._device)

    def sum_round(self) -> dict[str, NDArray[np.int32]]:
        """The round's only step under `noise = "shared"`, with this site's part of the noise: the words of each tensor
        of the net, modulo 2^32 (`messages.secure.shared`). What is not trained has none: zeros."""
        (draw,) = self.draw_steps(0)
        total = self._sum_gradients(draw, SHARED_UNITS)
        words = _add_part(total, self._settings, self._least_sites, self._patients.keys)
        found, start = {}, 0
        for name, one in self._net.named_parameters():
            if one.requires_grad:
                found[name] = words[start : start + one.numel()].reshape(tuple(one.shape))
                start += one.numel()
        rest = {name: one for name, one in self._net.state_dict().items() if name not in found}
        return found | {name: np.zeros(tuple(one.shape), dtype=np.int32) for name, one in rest.items()}

    def _sum_gradients(self, draw: Draw, units: int) -> NDArray[np.int64]:
        """The drawn patients' gradients as whole numbers of the grid, added up; flat."""
        size = sum(one.numel() for one in self._trained)
        total = torch.zeros(size, dtype=torch.int64, device=self._device)
        for patient in draw.patients:
            total += clip_to_grid(self._gradient_of(draw.step, patient), self._settings.clip_norm, units)
        return total.numpy(force=True)

    def _gradient_of(self, step: int, patient: int) -> torch.Tensor:
        """One patient's gradient, flat; what the step's loss does not reach is 0."""
        images, labels = self._cut_patches(step, patient)
        for one in self._trained:
            one.grad = None
        torch.manual_seed(derive_number(self._patients.keys.cuts, step, patient))  # dropout
        with cast_numbers(self._precision, self._device):
            outputs = self._forward(images.to(self._device))
        loss = loss_of_outputs(self._learner, outputs, labels.to(self._device))
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        return torch.cat(
            [(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in self._trained]
        )

    def _cut_patches(self, step: int, patient: int) -> Batch:
        """The patient's patches of a step: as many of each of its studies as can be, the first of them by lot."""
        groups, wanted = self._patients.groups, self._settings.patches_per_patient
        cases, number = groups[patient], step * len(groups) + patient
        begin = derive_number(self._patients.keys.cuts, number) % len(cases)
        return self._sampler.cut_cases([cases[(begin + place) % len(cases)] for place in range(wanted)], number)


def clip_to_grid(gradient: torch.Tensor, clip_norm: float, clip_units: int = CLIP_UNITS) -> torch.Tensor:
    """One patient's gradient in steps of the grid: int64, at most `clip_units` long in the L2 norm.

    One that is no number counts as 0, and so does one that is longer after all. Nothing here waits for a GPU.

    Args:
        gradient: flat, in its own unit.
    """
    whole = gradient.double()
    norm = torch.linalg.vector_norm(whole)
    scale = (reach_of(gradient.numel(), clip_units) / norm).clamp(max=steps_per_unit(clip_norm, clip_units))
    units = (whole * scale).round_()
    within = torch.dot(units, units) <= clip_units**2  # exact: whole numbers below 2^53
    return torch.where(within, units, 0.0).to(torch.int64)


def noise_update(
    trained: Mapping[str, NDArray[Any]],
    received: Mapping[str, Tensor],
    settings: DifferentialPrivacy,
    experiment: Experiment,
    keys: RoundKeys,
) -> dict[str, NDArray[np.int32]]:
    """A site's difference, clipped as a whole (McMahan et al. 2018), with its part of the noise: words as those of
    `PrivateSteps.sum_round`. One that is no number counts as 0."""
    parts = [trained[name].astype(np.float64).ravel() - received[name].read_all().ravel() for name in trained]
    total = clip_to_grid(torch.from_numpy(np.concatenate(parts)), settings.clip_norm, SHARED_UNITS).numpy()
    words, found, start = _add_part(total, settings, experiment.least_sites, keys), {}, 0
    for name, one in trained.items():
        found[name] = words[start : start + one.size].reshape(one.shape)
        start += one.size
    return found


def _add_part(
    total: NDArray[np.int64], settings: DifferentialPrivacy, least_sites: int, keys: RoundKeys
) -> NDArray[np.int32]:
    """Whole numbers with a site's part of the noise, modulo 2^32."""
    noise = draw_discrete(key_noise(keys.noise, 0, total), total.size, find_deviation(settings, least_sites))
    return (total + noise).astype(np.uint64).astype(np.uint32).view(np.int32)


def has_finite_weights(net: torch.nn.Module) -> bool:
    """Whether all weights are numbers: they follow from noised sums alone, so anybody may know."""
    return all(bool(torch.isfinite(one).all()) for one in net.state_dict().values())
