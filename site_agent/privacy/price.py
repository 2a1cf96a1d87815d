"""What an experiment under `[privacy.dp]` spends at a site, before its first round and so far; by the accountant."""

from __future__ import annotations

import structlog

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.kinds import PrivacyPlan
from site_agent.core.budget import ORDERS, Price, find_delta
from site_agent.privacy.accountant import find_divergences, find_epsilon

log = structlog.get_logger()


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


def price_steps(plan: PrivacyPlan, steps: int) -> float:
    """The epsilon of the first so many steps of a plan; that of all of them where the accountant fails."""
    try:
        return min(plan.epsilon, find_epsilon(plan.noise_multiplier, plan.sample_rate, steps, plan.delta))
    except WorkFailed as error:
        log.warning("epsilon so far is not known: that of the whole experiment is told", error=str(error))
        return plan.epsilon
