"""Figures that others say are shown as they are, or as none; showing them never raises."""

from __future__ import annotations

import sys

from hypothesis import example, given
from hypothesis import strategies as st

from messages.ground.units import human_moment, human_seconds


@given(st.floats())
@example(1e300)
@example(sys.float_info.max)
@example(float("nan"))
def test_any_number_is_shown_as_a_moment_and_as_a_duration_in_few_characters(value: float) -> None:
    assert 1 <= len(human_moment(value)) <= 20
    assert 1 <= len(human_seconds(value)) <= 20


def test_moments_and_durations_are_what_people_write() -> None:
    assert human_moment(1_767_225_600.0) == "2026-01-01 00:00:00Z"
    assert human_moment(1e300) == "no date"
    assert human_seconds(3700) == "1:01:40"
    assert human_seconds(1e300) == "over 100 years"
