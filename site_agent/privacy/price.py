"""What an experiment under `[privacy.dp]` spends at a site, before its first round and so far; by the accountant."""

from __future__ import annotations

import structlog

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.kinds import PrivacyPlan
from site_agent.core.budget import ORDERS, Price, find_delta
from site_agent.privacy.accountant import NoisySteps, find_epsilons, find_price

log = structlog.get_logger()

ROUNDS_AT_ONCE = 16


def price_training(experiment: Experiment, patients: int) -> Price | None:
    """The price for each of so many training patients; None: nothing of the experiment is private.

    Raises:
        WorkFailed: the accountant failed.
    """
    dp = experiment.privacy.dp
    if dp is None:
        return None
    a_round, delta = dp.count_steps(experiment.training), find_delta(dp.delta, patients)
    steps = NoisySteps(dp.noise_multiplier, dp.sample_rate, a_round * experiment.rounds.count)
    epsilon, divergences = find_price(steps, delta, ORDERS)
    return Price(steps.steps, a_round, epsilon, delta, divergences)


def price_steps(plan: PrivacyPlan, steps: int, a_round: int) -> float:
    """The epsilon of so many steps. Where the accountant fails, that of all planned ones, if there are no more.

    Args:
        a_round: steps of a round. The rounds of a block are asked for together, since a child process takes seconds.

    Raises:
        WorkFailed: nothing is known.
    """
    first = steps - (steps // max(1, a_round) - 1) % ROUNDS_AT_ONCE * a_round
    ends = {steps, *(end for n in range(ROUNDS_AT_ONCE) if 0 < (end := first + n * a_round) <= plan.steps)}
    asked = [(NoisySteps(plan.noise_multiplier, plan.sample_rate, end), plan.delta) for end in sorted(ends)]
    try:
        return find_epsilons(asked)[sorted(ends).index(steps)]
    except WorkFailed as error:
        if steps > plan.steps:
            raise
        log.warning("epsilon so far is not known: that of the whole experiment is told", error=str(error))
        return plan.epsilon
