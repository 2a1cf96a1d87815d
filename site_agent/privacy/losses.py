"""What noisy steps spend, by Google's dp-accounting (Apache 2.0): for a process of its own, since it takes 95 MB.

A step is the Gaussian mechanism on a Poisson sample; neighbours differ in one member: there or not (add or remove one).

Within an experiment the privacy loss distribution of all steps is composed (Koskela et al. 2020; Doroshenko et al.
2022): its epsilon is an upper bound that misses the least one by the grid only. Over experiments see
`site_agent.core.budget`, which adds up Rényi divergences (Mironov et al. 2019).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import rdp_privacy_accountant as rdp

INTERVAL = 1e-4
"""Grid on which privacy losses are counted; each is rounded up to it."""


@lru_cache(maxsize=8)
def _measure_step(noise_multiplier: float, sample_rate: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=INTERVAL
    )


def measure_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The least epsilon that is known to hold for so many steps at this delta; infinite where none does."""
    if steps == 0:
        return 0.0
    return float(_measure_step(noise_multiplier, sample_rate).self_compose(steps).get_epsilon_for_delta(delta))


def count_rounds(
    noise_multiplier: float, sample_rate: float, a_round: int, rounds: int, delta: float, most: float
) -> int:
    """How many of so many rounds, each of `a_round` steps, end with no more than this epsilon."""
    spent = [*range(1, rounds + 1)]
    return bisect_right(
        spent, most, key=lambda number: measure_epsilon(noise_multiplier, sample_rate, number * a_round, delta)
    )


def measure_divergences(noise_multiplier: float, sample_rate: float, orders: Sequence[float]) -> list[float]:
    """The Rényi divergence of one step at each order."""
    accountant = rdp.RdpAccountant(list(orders))
    accountant.compose(dp_event.PoissonSampledDpEvent(sample_rate, dp_event.GaussianDpEvent(noise_multiplier)))
    return [float(one) for one in accountant.rdp]
