"""The split is a function of secret, seed and patient alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.datasets.source import Case
from site_agent.datasets.splits import SPLITS, split_cases, split_of

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
PLACES = ["test", "train", "test", "train", "train", "validation", "train", "train", "train", "train", "train", "train"]
names = st.text(min_size=1, max_size=20)
secrets = st.binary(min_size=1, max_size=64)
seeds = st.integers(0, 2**63 - 1)


def case(patient: str, visit: int = 0) -> Case:
    return Case(f"{patient}-{visit:03d}", patient, (Path("i"),), Path("l"))


@given(st.dictionaries(names, st.integers(1, 4), min_size=1, max_size=30), secrets, seeds)
def test_all_time_points_of_a_patient_stay_together_and_no_case_is_lost(
    visits: dict[str, int], secret: bytes, seed: int
) -> None:
    cases = [case(patient, visit) for patient, count in visits.items() for visit in range(count)]
    parts = split_cases(cases, secret, seed, FRACTIONS)
    assert sorted(c.key for part in parts.values() for c in part) == sorted(c.key for c in cases)
    owners = [{c.patient for c in parts[name]} for name in SPLITS]
    assert sum(len(owner) for owner in owners) == len(visits)


@given(st.sets(names, min_size=1, max_size=30), st.sets(names, max_size=10), secrets, seeds)
def test_a_patient_keeps_its_place_as_others_arrive(
    first: set[str], arriving: set[str], secret: bytes, seed: int
) -> None:
    before = split_cases(map(case, sorted(first)), secret, seed, FRACTIONS)
    after = split_cases(map(case, sorted(first | arriving, reverse=True)), secret, seed, FRACTIONS)
    for name in SPLITS:
        assert [c for c in after[name] if c.patient in first] == list(before[name])


def test_shares_come_near_what_was_asked_for() -> None:
    parts = split_cases((case(f"p{i}") for i in range(4000)), b"secret", 1, FRACTIONS)
    for name, share in FRACTIONS.items():
        assert len(parts[name]) / 4000 == pytest.approx(share, abs=0.03)


def test_secret_and_seed_each_change_the_split_and_the_order() -> None:
    cases = [case(f"p{i}") for i in range(200)]
    base = split_cases(cases, b"secret", 1, FRACTIONS)
    assert split_cases(cases, b"other", 1, FRACTIONS) != base
    assert split_cases(cases, b"secret", 2, FRACTIONS) != base
    assert split_cases(cases[::-1], b"secret", 1, FRACTIONS) == base
    assert [c.key for c in base["train"]] != sorted(c.key for c in base["train"])


def test_a_known_patient_has_the_place_that_earlier_versions_gave_it() -> None:
    """Changing the hash would move patients from test to train between versions."""
    places = [split_of(b"konsil", f"patient-{i}", 7, FRACTIONS) for i in range(12)]
    assert places == PLACES


def test_shares_of_one_side_only_are_possible() -> None:
    assert {split_of(b"s", f"p{i}", 0, {"train": 1.0}) for i in range(50)} == {"train"}
    assert {split_of(b"s", f"p{i}", 0, {"train": 0, "validation": 0, "test": 1}) for i in range(50)} == {"test"}


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.5, "test": -0.5}, {"train": 0.5, "rest": 0.5}])
def test_shares_that_do_not_add_up_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        split_of(b"s", "p", 0, fractions)


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="secret"):
        split_of(b"", "p", 0, FRACTIONS)
