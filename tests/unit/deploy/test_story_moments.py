"""The lines of a story: what grew out of it never shows in it."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.story.moments import Moments
from deploy.story.parts import Moment


def moment(number: int) -> Moment:
    return Moment(float(number), "site-a", f"line {number}")


@given(grown=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 99)), max_size=30))
def test_each_sequence_holds_what_was_added_to_it_whatever_else_grows_out_of_it(grown: list[tuple[int, int]]) -> None:
    made, model = [Moments()], [list[Moment]()]
    for parent, number in grown:
        parent %= len(made)
        made.append(made[parent].add_moment(moment(number)))
        model.append([*model[parent], moment(number)])
    for one, expected in zip(made, model, strict=True):
        assert list(one) == expected
        assert len(one) == len(expected)
        assert list(one[-6:]) == expected[-6:]
        assert [one[place] for place in range(-len(expected), len(expected))] == expected + expected


def test_a_longer_one_shares_the_lines_of_the_shorter_one() -> None:
    longest = functools.reduce(Moments.add_moment, map(moment, range(1000)), Moments())
    before = longest._kept
    assert longest.add_moment(moment(1000))._kept is before


def test_two_of_the_same_lines_are_equal_and_past_their_end_is_nothing() -> None:
    one, other = (functools.reduce(Moments.add_moment, map(moment, range(3)), Moments()) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != other.add_moment(moment(3))
    with pytest.raises(IndexError):
        one[3]
