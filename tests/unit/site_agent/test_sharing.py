"""What of measured cases may leave a site: floors, merged bins, rounded counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.statistics.fingerprint import DataFingerprint
from messages.statistics.histograms import Histogram, bin_of_size
from site_agent.core.permissions import Floors
from site_agent.core.sharing import group_cases, make_shareable


def case(edge: int = 40, grey: int = 100, ed: float = 500.0) -> dict[str, Any]:
    return {
        "spacing": [1.0, 1.0, 3.0],
        "shape": [64, 64, 20],
        "cropped": [edge, 50, 20],
        "channels": {"T1": {"bins": [grey], "counts": [10_000]}},
        "volumes": {"ED": ed, "ET": 0.0},
    }


def share(cases: list[dict[str, Any]], **floors: int) -> DataFingerprint:
    told = make_shareable(Floors(**floors), ["T1"], cases)
    assert told is not None
    return told


def by_case(told: DataFingerprint) -> list[Histogram]:
    volumes = [one.volumes for one in told.classes.values()]
    return [*told.spacing, *told.shape, *told.cropped, *told.extent, told.kept, *volumes]


@given(st.lists(st.integers(10, 90), min_size=5, max_size=60), st.integers(1, 8))
def test_no_count_of_cases_is_ever_below_the_floor(edges: list[int], floor: int) -> None:
    cases = [case(edge, grey=edge, ed=float(edge)) for edge in edges]
    told = make_shareable(Floors(least_metric_cases=floor), ["T1"], cases)
    if len(edges) < floor:
        assert told is None
        return
    assert told is not None
    assert all(count >= floor for one in by_case(told) for count in one.counts)
    assert all(one.total == len(edges) for one in (*told.spacing, *told.cropped))
    grey = told.intensities["T1"]
    assert grey.total == 10_000 * len(edges)
    assert all(count >= 10_000 * floor for count in grey.counts), "each grey value is of as many cases"


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ([1, 1, 5, 5, 5], {3: 5}),
        ([1, 2, 3, 4], {}),
        ([0] * 9 + [50, 50], {0: 11}),
        ([0] * 9 + [50] * 9 + [49, 2], {0: 10, 50: 10}),
        ([0] * 9 + [20, 21, 22, 23, 24], {0: 9, 22: 5}),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120], {65: 12}),
        ([*range(15)], {2: 5, 7: 5, 12: 5}),
    ],
)
def test_bins_below_the_floor_are_told_as_the_mean_bin_of_their_group(numbers: list[int], told: dict[int, int]) -> None:
    """Two small groups would put the median into either: so it is one."""
    assert group_cases(numbers, 5) == told


def test_a_grey_value_of_few_cases_is_merged_though_it_has_many_voxels() -> None:
    """What counts is how many cases have it: one metal implant is one case."""
    told = share([case(grey=100)] * 9 + [case(grey=900)])
    assert told.intensities["T1"] == Histogram(bins=(100,), counts=(100_000,))


def test_counts_are_rounded_as_the_policy_says() -> None:
    told = share([case(edge) for edge in [40] * 13 + [80] * 12], round_counts_to=10)
    assert told.cases == 30
    assert told.cropped[0] == Histogram(bins=(bin_of_size(40), bin_of_size(80)), counts=(10, 10))
    assert make_shareable(Floors(round_counts_to=10), ["T1"], [case()] * 9) is None


@pytest.mark.parametrize(("have", "told"), [(0, False), (4, False), (5, True), (8, False), (12, True)])
def test_a_class_is_withheld_where_few_cases_have_it_or_few_lack_it(have: int, told: bool) -> None:
    cases = [case(ed=500.0)] * have + [case(ed=0.0)] * (12 - have)
    assert ("ED" in share(cases).classes) is told
    assert "ET" not in share(cases).classes
