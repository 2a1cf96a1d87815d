"""The accountant: what differential privacy costs, by dp-accounting in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from messages.ground.errors import WorkFailed
from site_agent.privacy import accountant
from site_agent.privacy.accountant import NoisySteps, find_epsilon, find_epsilons, find_price

_BY_ITS_OWN_ACCOUNTANT = """
import json
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
spent = PLDAccountant(value_discretization_interval=1e-4)
spent.compose(dp_event.PoissonSampledDpEvent(0.05, dp_event.GaussianDpEvent(1.1)), 200)
print(json.dumps([spent.get_epsilon(1e-5), spent.get_epsilon(1e-3)]))
"""
PUBLISHED_BY_PRV = {
    (0.8, 0.001, 1000): 0.477771266184522591657923840103,
    (1.5, 0.05, 100): 1.95385313568420015961635272106,
    (3.0, 0.05, 1000): 2.52757432605973830774814814504,
    (1.5, 0.2, 100): 8.49897785912163072907787864096,
}
"""Upper bounds of epsilon at delta 1e-6 by Microsoft's prv_accountant, from opacus/tests/prv_accountant.py."""
PRV_ERROR = 0.01
"""Allowed on each side of its estimate (Gopi et al. 2021): the lower bound lies two of these below the upper one."""


def test_epsilon_equals_that_of_dp_accountings_own_accountant_and_lies_within_prvs_bounds() -> None:
    done = subprocess.run([sys.executable, "-c", _BY_ITS_OWN_ACCOUNTANT], capture_output=True, text=True, check=True)
    asked = [(NoisySteps(1.1, 0.05, 200), delta) for delta in (1e-5, 1e-3)]
    published = [(NoisySteps(*setting), 1e-6) for setting in PUBLISHED_BY_PRV]
    found = find_epsilons(asked + published)
    assert found[:2] == pytest.approx(json.loads(done.stdout), abs=1e-6)
    for epsilon, theirs in zip(found[2:], PUBLISHED_BY_PRV.values(), strict=True):
        assert theirs - 2 * PRV_ERROR <= epsilon <= theirs


def test_nothing_of_dp_accounting_is_imported_here_and_an_answer_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = find_epsilon(2.0, 0.5, 3, 1e-5)
    assert "dp_accounting" not in sys.modules
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert find_epsilon(2.0, 0.5, 3, 1e-5) == first


def test_without_a_step_nothing_is_spent_and_divergences_grow_with_the_order() -> None:
    assert find_epsilon(1.0, 0.1, 0, 1e-5) == 0
    _epsilon, (low, *more, high) = find_price(NoisySteps(1.0, 1.0, 1), 1e-5, (2.0, 4.0, 8.0))
    assert (low, *more, high) == pytest.approx((1.0, 2.0, 4.0))  # of the plain Gaussian: order / (2 sigma squared)


@pytest.mark.parametrize(
    "given", [(0.0, 0.1, 1, 1e-5), (1.0, 0.0, 1, 1e-5), (1.0, 1.1, 1, 1e-5), (1.0, 0.1, -1, 1e-5), (1.0, 0.1, 1, 0.0)]
)
def test_a_number_out_of_its_range_is_refused(given: tuple[float, float, int, float]) -> None:
    with pytest.raises(ValueError, match=r"has to be|is not between"):
        find_epsilon(*given)


def test_noise_whose_epsilon_would_take_all_memory_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "MOST_BYTES", 240 * 2**20)
    assert find_epsilon(1.0, 0.3, 2, 1e-5) > 0  # there is enough for usual noise
    with pytest.raises(WorkFailed, match=r"noise_multiplier = 0\.02 epsilon is too large to be found in 240 MiB"):
        find_epsilon(0.02, 0.3, 2, 1e-5)


def test_a_child_that_takes_too_long_or_fails_is_said_in_one_line() -> None:
    with pytest.raises(WorkFailed, match="did not answer within"):
        find_epsilon(1.0, 0.1, 7, 1e-5, within=0.01)
    with pytest.raises(WorkFailed, match="the privacy accountant failed"):
        accountant._ask_child([("nothing-like-it",)], 60.0)
