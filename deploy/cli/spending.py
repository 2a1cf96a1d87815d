"""What differential privacy comes to before anything is sent: `konsil experiment check`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from deploy.extras import need_module
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.units import count_noun
from messages.secure.section import DifferentialPrivacy
from site_agent.core.budget import NOT_COVERED, find_delta
from site_agent.privacy.accountant import NoisySteps, count_rounds, find_epsilons

PATIENTS = (30, 100, 300)
"""Training patients of a site for which epsilon is shown."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What an experiment spends for each patient: at sites of some sizes, epsilon and delta."""

    dp: DifferentialPrivacy
    steps: int
    sizes: dict[int, tuple[float, float]]

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        sizes = {str(size): {"epsilon": epsilon, "delta": delta} for size, (epsilon, delta) in self.sizes.items()}
        shared = {"noise": "shared", "colluding": self.dp.colluding} if self.dp.is_shared else {}
        return {"unit": self.dp.unit, **shared, "steps": self.steps, "patients": sizes, "not_covered": NOT_COVERED}

    def describe(self) -> Iterable[str]:
        """Lines for a person."""
        parts = [f"{epsilon:.2f} (delta {delta:.1e}) at {size}" for size, (epsilon, delta) in self.sizes.items()]
        yield f"epsilon {', '.join(parts)} patients, in {count_noun(self.steps, 'step')}"
        if self.dp.by_site:
            yield "for each site as a whole"
        if self.dp.is_shared:
            bears = count_noun(self.dp.colluding, "site")
            yield f"of the sum of all sites, not of one site's update; {bears} of it may collude"
        yield NOT_COVERED


def foresee_privacy(experiment: Experiment) -> Foreseen | None:
    """What it will spend; None: it has no differential privacy. Takes seconds.

    Raises:
        ConfigError: it would pass its own `epsilon_max`, wherever it is trained.
        WorkFailed: the accountant failed. MissingExtra: it is not installed.
    """
    dp = experiment.privacy.dp
    if dp is None:
        return None
    need_module("dp_accounting", what="the privacy that it spends")
    a_round, rounds = dp.count_steps(experiment.training), experiment.rounds.count
    steps = NoisySteps(dp.noise_multiplier, dp.sample_rate, a_round * rounds)
    deltas = [find_delta(dp.delta, size) for size in PATIENTS]
    epsilons = find_epsilons([(steps, delta) for delta in deltas])
    if dp.epsilon_max is not None and min(epsilons) > dp.epsilon_max:
        fits = count_rounds(
            NoisySteps(steps.noise_multiplier, steps.sample_rate, a_round), rounds, deltas[0], dp.epsilon_max
        )
        raise ConfigError(
            f"round {fits + 1} of {rounds} would pass the {dp.epsilon_max:g} of epsilon_max, and all of them spend "
            f"{min(epsilons):.2f}",
            where="privacy.dp",
            advice="Ask for fewer rounds or steps, a lower sample_rate or a higher noise_multiplier",
        )
    return Foreseen(dp, steps.steps, dict(zip(PATIENTS, zip(epsilons, deltas, strict=True), strict=True)))
