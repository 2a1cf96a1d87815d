"""What an experiment under `[privacy.dp]` spends at a site, asked of the accountant before its first round."""

from __future__ import annotations

from messages.experiment import Experiment
from site_agent.core.budget import ORDERS, Price, find_delta
from site_agent.privacy.accountant import find_divergences, find_epsilon


def price_training(experiment: Experiment, patients: int) -> Price | None:
    """The price for each of so many training patients; None: nothing of the experiment is private.

    Raises:
        WorkFailed: the accountant failed.
    """
    dp = experiment.privacy.dp
    if dp is None:
        return None
    a_round, delta = dp.count_steps(experiment.training), find_delta(dp.delta, patients)
    steps = a_round * experiment.rounds.count
    return Price(
        steps=steps,
        steps_per_round=a_round,
        epsilon=find_epsilon(dp.noise_multiplier, dp.sample_rate, steps, delta),
        delta=delta,
        divergences=find_divergences(dp.noise_multiplier, dp.sample_rate, ORDERS),
    )
