"""Histograms over stated bins: they pool by adding up, and read as numpy reads the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from messages.statistics.fingerprint import ClassVolume, DataFingerprint, pool_fingerprints
from messages.statistics.histograms import (
    Histogram,
    bin_of_size,
    bin_of_value,
    pool_histograms,
    size_of_bin,
    value_of_bin,
)


def count(values: list[float]) -> Histogram:
    counts: dict[int, int] = {}
    for value in values:
        counts[bin_of_size(value)] = counts.get(bin_of_size(value), 0) + 1
    return Histogram.of_counts(counts)


@given(st.floats(1e-3, 1e6), st.floats(-1e6, 1e6))
def test_a_bin_stands_for_what_lies_in_it(size: float, value: float) -> None:
    assert size_of_bin(bin_of_size(size)) == pytest.approx(size, rel=0.003)
    assert value_of_bin(bin_of_value(value)) == pytest.approx(value, rel=0.006, abs=1e-4)


def test_whole_numbers_up_to_a_hundred_have_a_bin_each() -> None:
    assert [round(size_of_bin(bin_of_size(edge))) for edge in range(1, 101)] == [*range(1, 101)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_is_numpys_to_half_a_bin(values: list[int], percent: float) -> None:
    found = count([float(one) for one in values]).find_percentile(percent, size_of_bin)
    assert found == pytest.approx(float(np.percentile(values, percent)), rel=0.003)


@given(st.lists(st.lists(st.integers(1, 400), max_size=20), max_size=5))
def test_histograms_pool_to_that_of_all_values_whatever_their_order(sites: list[list[int]]) -> None:
    parts = [count([float(one) for one in site]) for site in sites]
    whole = count([float(one) for site in sites for one in site])
    assert pool_histograms(parts) == pool_histograms(parts[::-1]) == whole


def test_fingerprints_pool_by_channel_and_class_where_a_site_withholds_one() -> None:
    grey = Histogram(bins=(1, 4), counts=(3, 5))
    volume = ClassVolume(cases=6, mm3=700, volumes=Histogram(bins=(9,), counts=(6,)))
    one = DataFingerprint(cases=8, intensities={"T1": grey}, classes={"ED": volume})
    other = DataFingerprint(cases=5, intensities={"T1": grey})
    pooled = pool_fingerprints([one, other])
    assert pooled.cases == 13
    assert pooled.intensities["T1"] == Histogram(bins=(1, 4), counts=(6, 10))
    assert pooled.classes == {"ED": volume}


@pytest.mark.parametrize("bad", [{"bins": (1, 1), "counts": (2, 2)}, {"bins": (1,), "counts": ()}, {"counts": (0,)}])
def test_what_is_no_histogram_is_refused(bad: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValidationError):
        Histogram.model_validate(bad)
