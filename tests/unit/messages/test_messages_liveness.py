"""Absent, stuck and slow are three different things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.liveness import ABSENT_AFTER, STUCK_AFTER, WORKING, Liveness, Signs, judge_liveness, median_of_others

SEEN = Signs().note_alive("training", 100.0).note_progress("try", 1, "training", 1, 30.0, 100.0)


def test_a_site_of_which_nothing_was_ever_heard_is_absent() -> None:
    assert judge_liveness(Signs(), 0.0) is Liveness.ABSENT


def test_silence_makes_absent_and_a_sign_of_life_ends_it() -> None:
    assert judge_liveness(SEEN, 100.0 + ABSENT_AFTER) is Liveness.TRAINING
    late = 100.5 + ABSENT_AFTER
    assert judge_liveness(SEEN, late) is Liveness.ABSENT
    assert judge_liveness(SEEN.note_alive("training", late), late) is Liveness.TRAINING


def test_progress_that_repeats_itself_is_none() -> None:
    signs = SEEN
    for moment in range(101, 101 + int(STUCK_AFTER)):
        signs = signs.note_alive("training", moment).note_progress("try", 1, "training", 1, 30.0, moment)
    assert judge_liveness(signs, moment) is Liveness.TRAINING
    assert judge_liveness(signs, moment + 1.0) is Liveness.STUCK
    assert judge_liveness(signs.note_progress("try", 1, "training", 2, 30.0, moment), moment + 1.0) is Liveness.TRAINING


def test_work_that_was_announced_and_never_moved_is_stuck() -> None:
    signs = Signs().note_alive("idle", 0.0).note_alive("preparing", 10.0).note_alive("preparing", 11.0 + STUCK_AFTER)
    assert judge_liveness(signs, 11.0 + STUCK_AFTER) is Liveness.STUCK


def test_a_site_is_slow_when_it_ends_after_the_deadline() -> None:
    assert judge_liveness(SEEN, 101.0, deadline=130.0) is Liveness.TRAINING
    assert judge_liveness(SEEN, 101.0, deadline=129.0) is Liveness.SLOW


def test_a_site_is_slow_when_it_is_far_behind_the_others() -> None:
    assert judge_liveness(SEEN, 100.0, others_end=105.0) is Liveness.SLOW
    assert judge_liveness(SEEN, 100.0, others_end=121.0) is Liveness.TRAINING


@pytest.mark.parametrize("word", ["idle", "paused", "draining", "outside-hours"])
def test_who_does_not_work_is_neither_slow_nor_stuck(word: str) -> None:
    signs = SEEN.note_alive(word, 10_000.0)
    assert judge_liveness(signs, 10_001.0, deadline=0.0).value == word


def test_silence_from_before_the_observer_listened_proves_nothing() -> None:
    now = 1000.0
    assert judge_liveness(SEEN, now, listening_since=now - 1) is Liveness.TRAINING
    assert judge_liveness(SEEN, now + ABSENT_AFTER, listening_since=now - 1) is Liveness.ABSENT


@given(ends=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=9), which=st.integers(0, 8))
def test_the_median_of_the_others_is_that_of_the_list_without_oneself(ends: list[float], which: int) -> None:
    own = ends[which % len(ends)]
    others = sorted(ends)
    others.remove(own)
    assert median_of_others(sorted(ends), own) == (others[len(others) // 2] if others else None)
    assert median_of_others(sorted(ends), None) == sorted(ends)[len(ends) // 2]


ALIVE = st.tuples(st.just("alive"), st.sampled_from(["idle", "training", "sending", "paused"]), st.just(0))
MOVED = st.tuples(st.just("progress"), st.sampled_from(["training", "testing"]), st.integers(0, 3))


@given(
    steps=st.lists(st.tuples(ALIVE | MOVED, st.floats(0.0, 60.0)), min_size=1, max_size=30),
    quiet=st.floats(0.0, 300.0),
)
def test_only_a_living_site_at_work_that_has_not_moved_is_stuck(
    steps: list[tuple[tuple[str, str, int], float]], quiet: float
) -> None:
    signs, now, moved = Signs(), 0.0, 0.0
    said, last, mark = "", "", None
    same = {"validating": "training", "testing": "evaluating"}
    for (kind, word, done), pause in steps:
        now += pause
        if kind == "alive":
            signs = signs.note_alive(word, now)
            moved = now if word not in (said, same.get(last, last)) else moved
            said = word
        else:
            signs = signs.note_progress("try", 1, word, done, None, now)
            moved, mark = (now, (word, done)) if (word, done) != mark else (moved, mark)
        last = word
    heard, now = now, now + quiet
    seen = judge_liveness(signs, now)
    assert (seen is Liveness.ABSENT) == (now - heard > ABSENT_AFTER)
    if seen is Liveness.STUCK:
        assert signs.working
        assert now - moved > STUCK_AFTER
    if seen in WORKING:
        assert now - moved <= STUCK_AFTER
