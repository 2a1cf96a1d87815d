"""A site's privacy budgets, pure: what an experiment would spend of a ledger, and whether there is so much left.

A ledger belongs to one data set or to several. Its guarantee (`epsilon_lifetime`, `delta`) holds for each patient over
all experiments, whose parameters are chosen after earlier ones were seen. So their Rényi divergences are added up order
by order, and work goes on while some order is within the budget: a Rényi filter (Feldman and Zrnic 2021; Lécuyer 2021).
Each order has an equal part of delta, since which one decides may depend on what was released before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from messages.ground.settings import Name, Settings
from messages.kinds import PrivacyPlan
from messages.reasons import Reason
from messages.secure.section import DifferentialPrivacy

ORDERS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
"""Rényi orders of the filter: fixed for good, since they are chosen before anything is released."""
NOT_COVERED = "not covered: how many patients and cases there are, why cases are left out, and scores of models"
"""What is told of a site's patients without noise, wherever an epsilon stands."""


class DataBudget(Settings):
    """`[datasets.NAME.privacy]` of site.toml: what may be learned of each patient, over all experiments.

    Attributes:
        ledger: its name; data sets with the same patients share one. None: the data set's own name.
        epsilon_lifetime, delta: of the guarantee; no epsilon: spent is only counted.
        experiments_max: experiments that may ever train on it.
    """

    ledger: Name | None = None
    epsilon_lifetime: float | None = Field(None, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)
    experiments_max: int | None = Field(None, ge=1)

    @property
    def limits(self) -> bool:
        """Whether it is a budget: then nothing is trained without differential privacy."""
        return self.epsilon_lifetime is not None or self.experiments_max is not None


@dataclass(frozen=True, slots=True)
class Price:
    """What an experiment's training spends at this site.

    Attributes:
        steps: noisy steps in all rounds. steps_per_round: in one.
        epsilon: of all steps, at `delta` (`find_delta`); for this experiment alone.
        divergences: of one step, at each of `ORDERS`.
    """

    steps: int
    steps_per_round: int
    epsilon: float
    delta: float
    divergences: tuple[float, ...]


def announce_plan(dp: DifferentialPrivacy, patients: int, price: Price) -> PrivacyPlan:
    """What a site that joins tells of its training.

    Args:
        patients: as they may be told.
    """
    return PrivacyPlan(
        unit=dp.unit,
        noise="shared" if dp.is_shared else None,
        colluding=dp.colluding if dp.is_shared else None,
        patients=patients,
        sample_rate=dp.sample_rate,
        noise_multiplier=dp.noise_multiplier,
        clip_norm=dp.clip_norm,
        steps=price.steps,
        epsilon=price.epsilon,
        delta=price.delta,
    )


@dataclass(frozen=True, slots=True)
class Holding:
    """One experiment's part of a ledger.

    Attributes:
        planned: steps that were reserved as it joined. charged: steps of what has left the site.
        is_open: whether it may still train: then it holds what is reserved.
        epsilon, delta: as planned, of the experiment alone.
    """

    experiment: str
    dataset: str
    ledger: str
    planned: int
    charged: int
    is_open: bool
    epsilon: float
    delta: float
    divergences: tuple[float, ...]

    @property
    def held(self) -> int:
        """Steps that nobody else may spend."""
        return max(self.charged, self.planned) if self.is_open else self.charged


@dataclass(frozen=True, slots=True)
class Account:
    """A ledger with its budget.

    Attributes:
        closed: what was spent is not known (a spool out of a backup): nothing more is spent where there is a budget.
    """

    ledger: str
    budget: DataBudget
    holdings: tuple[Holding, ...] = ()
    closed: bool = False

    @property
    def spent(self) -> float:
        """Epsilon of all that has left."""
        return self._measure({one.experiment: one.charged for one in self.holdings})

    @property
    def bound(self) -> float:
        """Epsilon of all that has left or is reserved."""
        return self._measure({one.experiment: one.held for one in self.holdings})

    def judge_joining(self, experiment: str, price: Price) -> Reason | None:
        """Why an experiment cannot be afforded to its end; None where it can."""
        if not self.budget.limits:
            return None
        if self.closed or self.find_overrun(experiment, price) is not None:
            return Reason.PRIVACY_BUDGET_SPENT
        others = {one.experiment for one in self.holdings if one.held and one.experiment != experiment}
        most = self.budget.experiments_max
        return Reason.PRIVACY_BUDGET_SPENT if most is not None and len(others) >= most else None

    def find_overrun(self, experiment: str, price: Price) -> int | None:
        """The first round in which an experiment would pass the budget; None: it would not."""
        rounds = range(1, -(-price.steps // max(1, price.steps_per_round)) + 1)
        known = next((one.charged for one in self.holdings if one.experiment == experiment), 0)
        for number in rounds:
            steps = max(known, min(price.steps, number * price.steps_per_round))
            if self._passes(experiment, steps, price.divergences):
                return number
        return None

    def judge_charge(self, experiment: str, steps: int) -> Reason | None:
        """Why an update of so many steps may not leave; None where it may."""
        own = next((one for one in self.holdings if one.experiment == experiment), None)
        if not self.budget.limits:
            return None
        if own is None or self.closed or self._passes(experiment, own.charged + steps, own.divergences):
            return Reason.PRIVACY_BUDGET_SPENT
        return None

    def _passes(self, experiment: str, steps: int, divergences: Sequence[float]) -> bool:
        most = self.budget.epsilon_lifetime
        held = {one.experiment: one.held for one in self.holdings if one.experiment != experiment}
        return most is not None and self._measure(held, (steps, divergences)) > most

    def _measure(self, steps: Mapping[str, int], *more: tuple[int, Sequence[float]]) -> float:
        parts = [(steps.get(one.experiment, 0), one.divergences) for one in self.holdings]
        return measure_epsilon([*parts, *more], self.budget.delta)


def name_ledger(dataset: str, budgets: Mapping[str, DataBudget]) -> str:
    """The ledger of a data set: the one that site.toml names, else its own."""
    budget = budgets.get(dataset)
    return dataset if budget is None or budget.ledger is None else budget.ledger


def find_unlike(budgets: Mapping[str, DataBudget]) -> str | None:
    """Data sets that share a ledger and do not agree on what may be spent of it, in words; None: there are none."""
    first: dict[str, str] = {}
    for name, one in budgets.items():
        other = first.setdefault(ledger := name_ledger(name, budgets), name)
        if one.model_copy(update={"ledger": None}) != budgets[other].model_copy(update={"ledger": None}):
            return f"datasets.{name}.privacy: ledger {ledger!r} is that of {other}, too: give both the same budget"
    return None


def measure_epsilon(spent: Iterable[tuple[int, Sequence[float]]], delta: float) -> float:
    """The epsilon of many kinds of steps together: pairs of how many, and divergences of one at `ORDERS`.

    By Canonne, Kamath and Steinke 2020 (proposition 12), at each order with its part of delta; the least one counts.
    """
    parts = [(steps, one) for steps, one in spent if steps]
    if not parts:
        return 0.0
    share = delta / len(ORDERS)
    found: list[float] = [
        sum(steps * one[place] for steps, one in parts)
        + math.log1p(-1 / order)
        - (math.log(share) + math.log(order)) / (order - 1)
        for place, order in enumerate(ORDERS)
    ]
    return max(0.0, min(found))


def find_delta(asked: float, patients: int) -> float:
    """The delta of an experiment at a site with so many patients: no more than N^-1.1 of them may be exposed by chance
    alone."""
    return min(asked, math.pow(max(2, patients), -1.1))
