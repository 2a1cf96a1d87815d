"""What fits a privacy ledger: the Rényi filter over experiments, pure."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.reasons import Reason
from site_agent.core.budget import (
    ORDERS,
    Account,
    DataBudget,
    Holding,
    Price,
    find_delta,
    find_unlike,
    measure_epsilon,
)


def gaussian(noise: float) -> tuple[float, ...]:
    """Divergences of the Gaussian mechanism (Mironov 2017, corollary 3)."""
    return tuple(order / (2 * noise**2) for order in ORDERS)


def price(noise: float = 10.0, steps: int = 100, a_round: int = 10) -> Price:
    return Price(steps, a_round, 1.0, 1e-5, gaussian(noise))


def holding(name: str, planned: int = 100, charged: int = 0, *, is_open: bool = True, noise: float = 10.0) -> Holding:
    return Holding(name, "d", "d", planned, charged, is_open, 1.0, 1e-5, gaussian(noise))


def account(most: float | None, *held: Holding, closed: bool = False, experiments: int | None = None) -> Account:
    return Account("d", DataBudget(epsilon_lifetime=most, experiments_max=experiments), held, closed)


def test_epsilon_of_the_filter_is_never_below_the_exact_one_and_not_far_above() -> None:
    steps, noise, delta = 100, 10.0, 1e-5
    found = measure_epsilon([(steps, gaussian(noise))], delta)
    mu = math.sqrt(steps) / noise

    def exact_delta(epsilon: float) -> float:  # Balle and Wang 2018
        def phi(x: float) -> float:
            return math.erfc(-x / math.sqrt(2)) / 2

        return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)

    assert exact_delta(found) <= delta
    assert exact_delta(found / 1.35) > delta


def test_nothing_spent_is_no_epsilon_and_divergences_without_bound_are_one_without_bound() -> None:
    assert measure_epsilon([], 1e-5) == 0 == measure_epsilon([(0, (math.inf,) * len(ORDERS))], 1e-5)
    assert measure_epsilon([(1, (math.inf,) * len(ORDERS))], 1e-5) == math.inf


def test_what_others_have_reserved_is_not_spent_twice() -> None:
    alone = account(None, holding("a")).bound
    assert account(alone).judge_joining("a", price()) is None
    assert account(alone, holding("a")).judge_joining("b", price(steps=10)) is Reason.PRIVACY_BUDGET_SPENT
    freed = account(alone, holding("a", charged=10, is_open=False))
    assert freed.judge_joining("b", price(steps=80)) is None
    assert freed.judge_joining("b", price(steps=100)) is Reason.PRIVACY_BUDGET_SPENT


def test_the_round_that_would_pass_the_budget_is_told_before_the_first() -> None:
    most = measure_epsilon([(50, gaussian(10.0))], 1e-5)
    assert account(most).find_overrun("a", price()) == 6
    assert account(most).find_overrun("a", price(steps=50)) is None


def test_a_closed_ledger_and_one_with_enough_experiments_take_no_other() -> None:
    assert account(1e6, closed=True).judge_joining("a", price()) is Reason.PRIVACY_BUDGET_SPENT
    full = account(1e6, holding("a", is_open=False, charged=1), holding("b"), experiments=2)
    assert full.judge_joining("c", price()) is Reason.PRIVACY_BUDGET_SPENT
    assert full.judge_joining("b", price()) is None
    left = account(1e6, holding("a", is_open=False), holding("b"), experiments=2)  # "a" spent nothing
    assert left.judge_joining("c", price()) is None


def test_without_a_budget_spending_is_counted_and_not_bounded() -> None:
    free = account(None, holding("a", charged=100), closed=True)
    assert free.judge_joining("b", price(noise=0.1)) is None
    assert free.judge_charge("b", 10**6) is None
    assert free.spent > 0


def test_an_update_of_an_experiment_that_is_not_on_record_does_not_leave() -> None:
    assert account(1e6).judge_charge("a", 1) is Reason.PRIVACY_BUDGET_SPENT


def test_delta_is_no_larger_than_the_patients_allow() -> None:
    assert find_delta(1e-5, 100) == 1e-5
    assert find_delta(1e-2, 100) == pytest.approx(100**-1.1)
    assert find_delta(1e-5, 10**6) == pytest.approx(10**-6.6)


def test_data_sets_that_share_a_ledger_have_one_budget() -> None:
    shared = DataBudget(ledger="both", epsilon_lifetime=8.0)
    assert find_unlike({"a": shared, "b": shared}) is None
    assert "datasets.b.privacy" in (find_unlike({"a": shared, "b": DataBudget(ledger="both")}) or "")
    assert find_unlike({"both": DataBudget(epsilon_lifetime=8.0), "b": shared}) is None
    assert find_unlike({"both": DataBudget(epsilon_lifetime=9.0), "b": shared}) is not None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.6, 30.0), st.integers(1, 400), st.integers(1, 40), st.floats(0.0, 1.5)), max_size=8),
    st.floats(0.5, 20.0),
)
def test_whatever_is_asked_and_left_the_lifetime_is_never_passed(
    asked: list[tuple[float, int, int, float]], most: float
) -> None:
    budget = DataBudget(epsilon_lifetime=most)
    held: list[Holding] = []
    for number, (noise, steps, a_round, share) in enumerate(asked):
        now = Account("d", budget, tuple(held))
        name = f"e{number}"
        if now.judge_joining(name, price(noise, steps, a_round)) is not None:
            continue
        held.append(holding(name, steps, noise=noise))
        for _update in range(int(share * steps) // a_round):  # more than was planned, too
            if Account("d", budget, tuple(held)).judge_charge(name, a_round) is None:
                one = held.pop()
                held.append(holding(name, steps, one.charged + a_round, noise=noise))
        if share < 1:
            one = held.pop()
            held.append(holding(name, steps, one.charged, is_open=False, noise=noise))
        after = Account("d", budget, tuple(held))
        assert 0 <= after.spent <= after.bound <= most
