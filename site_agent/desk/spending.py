"""What a site's operator is shown of its privacy ledgers: plain types and words. Nothing of it leaves the site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from messages.experiment import Experiment
from messages.ground.units import count_noun
from site_agent.core.budget import NOT_COVERED, Account, DataBudget, Holding, Price, measure_epsilon, name_ledger

CLOSED = "CLOSED: the state folder came out of a backup, and what was spent since is not known"


def account_as_plain(account: Account, budgets: Mapping[str, DataBudget]) -> dict[str, Any]:
    """A ledger with its budget and each experiment's part, for --json and the status."""
    budget = account.budget
    return {
        "ledger": account.ledger,
        "datasets": list_datasets(account, budgets),
        "epsilon_lifetime": budget.epsilon_lifetime,
        "delta": budget.delta,
        "spent": account.spent,
        "spent_or_reserved": account.bound,
        "experiments_max": budget.experiments_max,
        "closed": account.closed,
        "experiments": [_holding_as_plain(one, budget.delta) for one in account.holdings],
        "not_covered": NOT_COVERED,
    }


def list_datasets(account: Account, budgets: Mapping[str, DataBudget]) -> list[str]:
    """The data sets that spend of a ledger, or have."""
    members = {name for name in budgets if name_ledger(name, budgets) == account.ledger}
    found = sorted(members | {one.dataset for one in account.holdings})
    return found or [account.ledger]


def _holding_as_plain(one: Holding, delta: float) -> dict[str, Any]:
    return {
        "experiment": one.experiment,
        "dataset": one.dataset,
        "open": one.is_open,
        "epsilon_planned": one.epsilon,
        "delta": one.delta,
        "steps_planned": one.planned,
        "steps_spent": one.charged,
        "epsilon_spent": measure_epsilon([(one.charged, one.divergences)], delta),
    }


def say_account(account: Account) -> str:
    """How much of a ledger is left, in one line."""
    limit = account.budget.epsilon_lifetime
    spent = f"epsilon {account.spent:.2f}" + (f" of {limit:g}" if limit is not None else "") + " spent"
    more = f", {account.bound:.2f} with what is reserved" if account.bound > account.spent else ""
    free = "" if account.budget.limits else ", no budget"
    most = account.budget.experiments_max
    used = sum(1 for one in account.holdings if one.held)
    count = f", {used} of {count_noun(most, 'experiment')}" if most is not None else ""
    shut = f"; {CLOSED}" if account.closed and account.budget.limits else ""
    return f"{account.ledger}: {spent}{more}{free}{count} (delta {account.budget.delta:g}){shut}"


def list_rows(account: Account) -> Iterator[list[str]]:
    """A row of a table for each experiment: its name, data set, epsilon spent, planned by itself, steps, state."""
    for one in account.holdings:
        spent = measure_epsilon([(one.charged, one.divergences)], account.budget.delta)
        state = "open: the rest is reserved" if one.is_open else "over"
        steps = f"{one.charged} of {one.planned}"
        yield [one.experiment, one.dataset, f"{spent:.2f}", f"{one.epsilon:.2f}", steps, state]


def explain_price(account: Account, experiment: Experiment, price: Price) -> str:
    """What an experiment would spend, and where that passes what is left, in words."""
    rounds = count_noun(experiment.rounds.count, "round")
    words = f"epsilon {price.epsilon:.2f} (delta {price.delta:.1e}) for each patient in {rounds}"
    ledger, limit = account.ledger, account.budget.epsilon_lifetime
    if not account.budget.limits:
        return f"{words}; ledger {ledger} has no budget"
    if account.closed:
        return f"{words}; ledger {ledger} is closed"
    passed = account.find_overrun(experiment.id, price)
    if passed is not None:
        taken = f"{account.bound:.2f} of which are taken"
        return f"{words}; round {passed} would pass the {limit:g} of ledger {ledger}, {taken}"
    if account.judge_joining(experiment.id, price) is not None:
        return f"{words}; ledger {ledger} has had its {count_noun(account.budget.experiments_max or 0, 'experiment')}"
    left = "" if limit is None else f": {account.bound:.2f} of {limit:g} are taken"
    return f"{words}; it fits into ledger {ledger}{left}"
