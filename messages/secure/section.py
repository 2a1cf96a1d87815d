"""The `[privacy]` section of an experiment file, as strict models: it can only be stricter than a site's policy.

What fits what is asked in `find_unprivate`, which `messages.experiment` calls: one line for each mistake.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from messages.ground.settings import Seconds, Settings

if TYPE_CHECKING:
    from messages.experiment import Experiment
    from messages.sections import Training

_FORM_5: dict[str, Any] = {"json_schema_extra": {"form": 5}, "exclude_if": lambda value: value is None}
"""Of a key that came with form 5: where a file says nothing of it, no reader is told of it either."""
CARRIED_OUT: frozenset[str] = frozenset({"dp", "masks"})
"""What this version can keep: a promise that nobody keeps is refused, never passed over."""
PRIVATE_STRATEGIES = ("FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "FedProx")
"""Under differential privacy: at a site they do nothing, or something after the noise; and nothing else travels."""
MASKABLE_STRATEGIES = frozenset({"FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"})
"""Strategies that need nothing of updates but their mean."""
LEAST_SECURE_SITES = 3
"""Fewer than three updates in a sum: one site that knows its own learns the other's."""
LEAST_ADDING = 2
"""Sites that add noise to a sum under "shared": with one, it would be that site's own."""


class DifferentialPrivacy(Settings):
    """`[privacy.dp]`: Gaussian noise, of a size that a guarantee follows from (Abadi et al. 2016; McMahan et al. 2018).

    Attributes:
        unit: who is protected: each patient of a site, or each site as a whole.
        noise_multiplier: standard deviation of the noise, in units of `clip_norm`.
        clip_norm: longest gradient of one patient (of one site's update: `unit = "site"`), in the L2 norm.
        sample_rate: chance with which each patient is drawn into a step (Poisson).
        patches_per_patient: patches of a patient in one step, over all of its studies.
        epsilon_max: the guarantee that the experiment may spend at a site; training ends before it is passed.
        delta: of the guarantee; a site takes the smaller of this and N^-1.1.
        noise: "own": each site's update is private by itself. "shared": the sum of all is, under masks.
        colluding: under "shared", how many sites of a sum may pool what they know, or leave their noise out: the
            others' noise is enough without theirs.
    """

    unit: Literal["patient", "site"] = "patient"
    noise_multiplier: float = Field(gt=0, le=1000)
    clip_norm: float = Field(gt=0, le=1e6)
    sample_rate: float = Field(gt=0, le=1)
    patches_per_patient: int = Field(4, ge=2, le=64)
    epsilon_max: float | None = Field(None, gt=0)
    delta: float = Field(1e-5, ge=1e-12, lt=1)
    noise: Literal["own", "shared"] = "own"
    colluding: int = Field(0, ge=0, le=1000)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each patient is drawn once on average, rounded up."""
        return math.ceil(1 / self.sample_rate)

    @property
    def by_site(self) -> bool:
        """Whether a site is protected as a whole: its update is clipped, not its patients' gradients."""
        return self.unit == "site"

    def count_charged(self, steps: int) -> int:
        """How many noisy steps a site's update is, of so many optimiser steps."""
        return min(1, steps) if self.by_site else steps

    @property
    def is_shared(self) -> bool:
        """Whether only the sum of all sites' updates has the whole noise."""
        return self.noise == "shared"

    def count_adding(self, least_sites: int) -> int:
        """With how many sites' noise the sum is private: each adds its part of the variance. 1 under "own".

        Args:
            least_sites: of a sum: a site reveals nothing of a smaller one (`messages.secure.site_rules`).
        """
        return least_sites - self.colluding if self.is_shared else 1

    def count_steps(self, training: Training) -> int:
        """Noisy steps of a round, however many patients a site has: those of the optimiser; one for a whole site."""
        if self.by_site:
            return 1
        return training.local_steps or (training.epochs or 1) * self.steps_per_epoch


class Privacy(Settings):
    """Can only tighten a site's floors.

    Attributes:
        secure_aggregation: "masks": nobody sees a single site's update (Bonawitz et al. 2017). "bfv": homomorphic
            encryption (Brakerski 2012; Fan and Vercauteren 2012), which no site's key protects against that site.
        threshold: how many sites reveal what lost sites' masks need: two thirds and one ("two-thirds"), or a half
            and one ("majority").
        exchange_within: deadline of each of the exchanges of keys and shares, seconds.
        update_norm_max: sites shorten a longer difference to this L2 norm: nobody can check a masked update alone.
    """

    secure_aggregation: Literal[False, "masks", "bfv"] = False
    threshold: Literal["two-thirds", "majority"] | None = Field(None, **_FORM_5)
    exchange_within: Seconds | None = Field(None, **_FORM_5)
    update_norm_max: float | None = Field(None, gt=0, **_FORM_5)
    dp: DifferentialPrivacy | None = Field(None, **_FORM_5)

    @property
    def came_with(self) -> int:
        """The form of files with such a section, beside that of its keys: secure rounds came with form 5."""
        return 5 if self.secure_aggregation else 0


def find_unprivate(experiment: Experiment) -> str | None:
    """Why what the file says of privacy cannot be carried out, in words; None where it can."""
    privacy = experiment.privacy
    if privacy.secure_aggregation == "bfv":
        return (
            'privacy.secure_aggregation = "bfv" is not available in this version: write "masks", under which no key '
            "opens every update"
        )
    if (wanted := privacy.secure_aggregation or (privacy.dp and "dp")) and wanted not in CARRIED_OUT:
        return f"privacy: {wanted!r} is not available in this version"
    if privacy.secure_aggregation and experiment.least_sites < LEAST_SECURE_SITES:
        return (
            f"privacy.secure_aggregation: a sum of fewer than {LEAST_SECURE_SITES} updates hides none of them, and "
            f"[quorum] with least_sites lets a round close with {experiment.least_sites}"
        )
    if privacy.secure_aggregation == "masks" and (wrong := _find_unmaskable(experiment)) is not None:
        return f"privacy.secure_aggregation: {wrong}"
    if not privacy.secure_aggregation and (privacy.threshold is not None or privacy.exchange_within is not None):
        return 'privacy.threshold and privacy.exchange_within go with secure_aggregation = "masks"'
    return None if privacy.dp is None else _find_unnoised(experiment, privacy.dp)


def _find_unnoised(experiment: Experiment, dp: DifferentialPrivacy) -> str | None:
    """Why something would leave a site without noise, or is not proven to be covered by it, in words.

    What is admitted is listed, and tested; whatever else comes one day is refused until it is listed too.
    """
    training, plan, told = experiment.training, experiment.plan, "under [privacy.dp]"
    if dp.by_site and not dp.is_shared:
        return 'privacy.dp.unit = "site": with a whole site\'s noise for each nothing is learnt; write noise = "shared"'
    if dp.by_site and dp.sample_rate < 1:
        return 'privacy.dp.sample_rate: with unit = "site" each site is in each round, so write 1'
    if dp.is_shared and (wrong := _find_unshared(experiment, dp)) is not None:
        return f"privacy.dp: {wrong}"
    if training.clip_norm is not None:
        return f"training.clip_norm: {told} each patient's gradient is clipped to privacy.dp.clip_norm instead"
    if plan.kind != "aggregation":
        return f'plan.kind = "{plan.kind}": {told} only "aggregation" is proven'
    if plan.strategy.name not in PRIVATE_STRATEGIES:
        return f"plan.strategy: {told} {plan.strategy.name} is not proven; known are {', '.join(PRIVATE_STRATEGIES)}"
    if experiment.measures_first:
        return f'net.name = "auto": {told} no statistics of the data are told, so name a net'
    if training.trainer is not None:
        return "training.trainer: nobody can prove that a program of the sites keeps privacy.dp, so leave it out"
    if training.batches_per_step > 1:
        return f"training.accumulate: {told} privacy.dp.sample_rate says how many patients make a step"
    if training.precision == "amp":
        return f'training.precision = "amp": {told} gradients are not scaled; write "float32" or "bfloat16"'
    if training.loss_table.class_weights == "balanced":
        return f'training.loss: class_weights = "balanced" {told} would tell how often each class occurs; write numbers'
    return None


def _find_unshared(experiment: Experiment, dp: DifferentialPrivacy) -> str | None:
    """Why the sum of all sites' whole numbers would not be a step of the one that the noise is for, in words."""
    from messages.secure.shared import LEAST_DEVIATION, find_deviation, find_room

    training, plan, shared = experiment.training, experiment.plan, 'noise = "shared"'
    optimizer = training.optimizer
    if experiment.privacy.secure_aggregation != "masks":
        return f'{shared} is too little for one site\'s update alone: write secure_aggregation = "masks"'
    if dp.count_adding(experiment.least_sites) < LEAST_ADDING:
        return (
            f"of the {experiment.least_sites} sites of the least sum, colluding = {dp.colluding} leaves fewer than "
            f'{LEAST_ADDING} that add noise: write a smaller number, or noise = "own"'
        )
    if find_deviation(dp, experiment.least_sites) < LEAST_DEVIATION:
        return f"noise_multiplier = {dp.noise_multiplier:g} is too little to share among so many: write a larger one"
    if find_room(dp, len(experiment.sites)) < 2 * len(experiment.sites):
        return f"noise_multiplier = {dp.noise_multiplier:g} of so many sites fills 32 bits: write a smaller one"
    if plan.weight_by != "equal":
        return f"under {shared} no site's noise weighs more than another's: write plan.weight_by = \"equal\""
    if experiment.privacy.update_norm_max is not None:
        return f"under {shared} a shortened update would have less noise: leave privacy.update_norm_max out"
    if dp.by_site:
        return None
    if training.local_steps != 1:
        return f"under {shared} the sites' gradients of one step are added up: write training.local_steps = 1"
    if optimizer.name != "SGD" or optimizer.momentum or optimizer.weight_decay or training.ema is not None:
        return (
            f'under {shared} a site takes no step itself: write training.optimizer.name = "SGD" with momentum = 0, '
            "without weight_decay and ema"
        )
    if plan.strategy.name == "FedProx":
        return f"under {shared} nothing is pulled at a site: write another plan.strategy than FedProx"
    return None


def _find_unmaskable(experiment: Experiment) -> str | None:
    """Why rounds cannot be masked as the file says, in words."""
    from messages.secure.rules import threshold_of

    plan, codec = experiment.plan, experiment.wire.codec
    if plan.kind not in ("aggregation", "evaluation"):
        return f'masks go with plan.kind = "aggregation" or "evaluation", where only sums count, not "{plan.kind}"'
    if plan.strategy.name not in MASKABLE_STRATEGIES:
        return f"{plan.strategy.name} needs more than the sum of the updates, which is all that there is under masks"
    if codec not in ("float32", "exact"):
        return f'masked updates are whole numbers of 32 bits: leave wire.codec = "{codec}" out'
    if experiment.training.trainer is not None:
        return "what a site's own trainer makes is not masked: leave training.trainer out"
    if experiment.measures_first:
        return 'net.name = "auto" begins with what each site tells of its data by itself, which no mask covers'
    threshold, least = threshold_of(len(experiment.sites), experiment.privacy.threshold), experiment.least_sites
    if threshold > least:
        return (
            f"of {len(experiment.sites)} sites {threshold} have to reveal, and [quorum] lets a round close with "
            f"{least}: write least_sites = {threshold}, or another privacy.threshold"
        )
    return None
