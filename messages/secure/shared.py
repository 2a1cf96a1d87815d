"""Whole numbers whose noise comes from all sites: `[privacy.dp] noise = "shared"` under masks. Pure.

A site's words are the sum of its patients' gradients (each clipped, on a grid of clip_norm / `SHARED_UNITS`) and its
part of the noise, modulo 2^32. With `unit = "site"` they are the difference that it trained, clipped as a whole, and
the same part. Nothing is scaled or rounded after that, so sum and noise stay on one grid. The coordinator divides the
sum over all sites by what they announced, and takes the step.

The sum modulo 2^32 follows from the sum itself. So it costs no privacy where it wraps; `find_most` keeps it from that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from messages.secure.encoding import Arrival

if TYPE_CHECKING:
    from messages.experiment import Experiment
    from messages.secure.section import DifferentialPrivacy

SHARED_UNITS = 2**16
"""The clipping norm, in steps of the grid: the words leave room for 2^15 times that."""
LEAST_DEVIATION = 2**8
"""Of one site's part, in steps of the grid: below it the sum of discrete Gaussians is not taken for one."""
_TAIL = 12.0
"""Deviations beyond which no noise is (1e-32)."""


def is_shared(experiment: Experiment) -> bool:
    """Whether an experiment's updates are such words."""
    dp = experiment.privacy.dp
    return dp is not None and dp.is_shared


def find_deviation(dp: DifferentialPrivacy, least_sites: int) -> float:
    """Standard deviation of one site's part of the noise, in steps of the grid. Rounded up, so that the parts of
    `count_adding` sites have the file's variance at least."""
    exact = dp.noise_multiplier * SHARED_UNITS / math.sqrt(dp.count_adding(least_sites))
    return float(math.ceil(exact))


def find_step(experiment: Experiment, dp: DifferentialPrivacy, round_number: int) -> float:
    """How far the weights move by a sum as long as the clipping norm, before it is divided by how many there are: a
    step against patients' gradients, or as far as the sites' differences are."""
    if dp.by_site:
        return dp.clip_norm
    training, before = experiment.training, experiment.rounds_before
    factor = training.schedule.factor(round_number + before, experiment.rounds.count + before)
    return -training.optimizer.lr * factor * dp.clip_norm / dp.sample_rate


def find_most(experiment: Experiment) -> int | None:
    """How many patients a site may have at most, so that the sum over all sites cannot wrap; below 1: none. None: its
    noise is not shared."""
    dp, sites = experiment.privacy.dp, len(experiment.sites)
    if dp is None or not dp.is_shared or dp.by_site:
        return None
    return int(find_room(dp, sites) / sites) - 1


def find_room(dp: DifferentialPrivacy, sites: int) -> float:
    """How long what so many sites protect may be in the sum, in clipping norms; 0 and less: their noise fills it."""
    return 2**31 / SHARED_UNITS - _TAIL * dp.noise_multiplier * math.sqrt(sites)


def find_shared_arrival(dp: DifferentialPrivacy, sites: int, announced: int, step: float) -> Arrival:
    """What a sum over so many sites can be.

    Args:
        announced: patients of all of them, or sites, as the unit is.
        step: `find_step`.

    Raises:
        ValueError: nobody is announced.
    """
    if announced < 1:
        raise ValueError("no patients are announced")
    reach = SHARED_UNITS * (announced + _TAIL * dp.noise_multiplier * math.sqrt(sites)) + sites
    return Arrival(1.0, sites, int(reach), unit=step / SHARED_UNITS / announced)
