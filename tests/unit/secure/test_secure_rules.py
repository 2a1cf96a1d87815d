"""Thresholds, and what a round of so many sites bears: docs/privacy.md has the table."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from messages.secure.rules import RoundBounds, ThresholdRule, bound_round, least_in_sum, margin_of, threshold_of

RULES = st.sampled_from(["two-thirds", "majority", None])


@pytest.mark.parametrize(
    ("sites", "two_thirds", "majority"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (4, 3, 3), (6, 5, 4), (9, 7, 5), (10, 7, 6)]
)
def test_the_threshold_is_two_thirds_and_one_or_a_half_and_one(sites: int, two_thirds: int, majority: int) -> None:
    assert (threshold_of(sites), threshold_of(sites, "majority")) == (two_thirds, majority)


@given(st.integers(3, 1000), RULES, st.integers(1, 1000))
def test_what_a_round_bears_follows_from_its_threshold(sites: int, rule: ThresholdRule | None, quorum: int) -> None:
    bounds = bound_round(sites, rule, quorum)
    assert bounds.threshold > sites / (2 if rule == "majority" else 1.5)
    assert bounds.least >= max(bounds.threshold, quorum, 3)
    assert bounds.losses == sites - bounds.least
    assert margin_of(sites, bounds.threshold) > bounds.colluding
    assert bounds.least - bounds.colluding >= 2, "one honest update alone in a sum is open"
    assert bounds.possible == (quorum <= sites)


def test_three_sites_bear_no_loss() -> None:
    assert bound_round(3) == RoundBounds(sites=3, threshold=3, least=3, losses=0, colluding=1)
    assert least_in_sum(2) == 3
    assert not bound_round(2).possible


def test_the_page_on_privacy_has_these_numbers() -> None:
    page = (ROOT / "docs/privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+), (\d+) \|$", page, re.MULTILINE)
    assert len(rows) >= 8
    for sites, threshold, least, losses, colluding, *others in (map(int, row) for row in rows):
        assert bound_round(sites) == RoundBounds(sites, threshold, least, losses, colluding)
        majority = bound_round(sites, "majority")
        assert others == [majority.losses, majority.colluding]
