"""What `[policy.floors]` and a budget ask of an experiment's differential privacy."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import site_consortium as script

from messages.experiment import Experiment
from messages.reasons import Reason
from site_agent.core import policy
from site_agent.core.budget import ORDERS, Price
from site_agent.core.permissions import PolicyConfig

DP = {"noise_multiplier": 1.0, "clip_norm": 0.5, "sample_rate": 0.1}


def experiment(dp: dict[str, Any] | None) -> Experiment:
    return Experiment.model_validate(script.experiment_file(privacy={} if dp is None else {"dp": dp}))


def judge(floors: dict[str, Any], dp: dict[str, Any] | None, budgeted: tuple[str, ...] = ()) -> Reason | None:
    rules = PolicyConfig.model_validate({"default": "allow", "floors": floors})
    return policy.judge_experiment(
        rules, experiment(dp), "dr-a", "site-a", {"glioma": {"ET"}}, date(2026, 1, 1), budgeted=budgeted
    ).reason


@pytest.mark.parametrize(
    ("floors", "dp", "fits"),
    [
        ({}, None, True),
        ({"clip_norm_max": 0.1}, None, True),
        ({"dp_unit": "patient"}, None, False),
        ({"dp_unit": "site"}, None, False),
        ({"epsilon_max": 8.0}, None, False),
        ({"noise_multiplier_min": 0.5}, None, False),
        ({"dp_unit": "patient", "noise_multiplier_min": 1.0, "clip_norm_max": 0.5, "epsilon_max": 8.0}, DP, True),
        ({"dp_unit": "site"}, DP, True),
        ({"noise_multiplier_min": 1.01}, DP, False),
        ({"clip_norm_max": 0.49}, DP, False),
    ],
)
def test_an_experiment_can_only_be_stricter_than_the_floors(
    floors: dict[str, Any], dp: dict[str, Any] | None, fits: bool
) -> None:
    assert judge(floors, dp) is (None if fits else Reason.PRIVACY_BELOW_FLOOR)


def test_with_a_budget_nothing_is_trained_that_cannot_be_charged_to_it() -> None:
    assert judge({}, None, ("glioma",)) is Reason.PRIVACY_BELOW_FLOOR
    assert judge({}, None, ("another",)) is None
    assert judge({}, DP, ("glioma",)) is None


def test_an_epsilon_above_the_floor_or_the_files_own_is_declined_with_its_code() -> None:
    price = Price(20, 10, 5.0, 1e-5, (1.0,) * len(ORDERS))
    floors = PolicyConfig.model_validate({"floors": {"epsilon_max": 4.0}}).floors
    assert policy.judge_price(floors, experiment(DP), price) is Reason.PRIVACY_BELOW_FLOOR
    free = PolicyConfig().floors
    assert policy.judge_price(free, experiment(DP), price) is None
    assert policy.judge_price(free, experiment({**DP, "epsilon_max": 4.0}), price) is Reason.PRIVACY_BUDGET_SPENT
