"""Scores: pooling sums is scoring all cases at once, and small numbers do not leave a site."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.scores import ScoreSums, SplitScores, pool_scores, sum_scores

CASE = st.one_of(
    st.floats(0, 1).map(lambda score: (score, False)),
    st.sampled_from([(0.0, True), (None, True)]),  # a false positive, and both empty
)
SITES = st.lists(st.lists(CASE, max_size=8), min_size=1, max_size=4)


def report(cases: list[tuple[float | None, bool]]) -> SplitScores:
    score = sum_scores([value for value, _ in cases], reference_empty=[empty for _, empty in cases])
    return SplitScores(cases=len(cases), metrics={"dice": {"ET": score}})


@given(SITES)
def test_pooled_sites_score_as_all_cases_at_once(sites: list[list[tuple[float | None, bool]]]) -> None:
    pooled = pool_scores(map(report, sites))
    whole = report([case for site in sites for case in site])
    assert pooled.cases == whole.cases
    found, expected = pooled.metrics["dice"]["ET"], whole.metrics["dice"]["ET"]
    assert found.model_dump() == pytest.approx(expected.model_dump())
    assert pooled.mean_score("dice") == pytest.approx(whole.mean_score("dice"))


def test_both_empty_is_left_out_and_a_false_positive_counts_as_nought() -> None:
    score = sum_scores([0.8, None, 0.0, 0.6], reference_empty=[False, True, True, False], failed=1)
    assert (score.n, score.both_empty, score.reference_empty, score.false_positive, score.failed) == (
        3,
        1,
        2,
        1,
        1,
    )
    assert score.mean == pytest.approx(1.4 / 3)
    assert score.mean_nonempty == pytest.approx(0.7)
    assert score.std == pytest.approx(0.4163332)


def test_the_mean_is_over_cases_and_then_over_regions() -> None:
    regions = {
        "WT": sum_scores([1.0, 0.0, 0.5], reference_empty=[False] * 3),
        "ET": sum_scores([0.1], reference_empty=[False]),
    }
    scores = SplitScores(cases=3, metrics={"dice": {**regions, "TC": ScoreSums(both_empty=3, reference_empty=3)}})
    assert scores.mean_score("dice") == pytest.approx((0.5 + 0.1) / 2)
    assert scores.by_target("dice")["TC"] is None
    assert SplitScores(cases=0).mean_score("dice") is None


def test_below_the_floor_only_counts_leave_the_site() -> None:
    dice = {
        "WT": sum_scores([0.5] * 6, reference_empty=[False] * 6),
        "ET": sum_scores([0.5, 0.7] + [None] * 4, reference_empty=[False] * 2 + [True] * 4),
    }
    scores = SplitScores(cases=6, metrics={"dice": dice}, rows=[{"WT": 0.5}] * 6)
    assert scores.for_sharing(7, share_rows=True) == SplitScores(cases=6, withheld=True)
    assert scores.for_sharing(1, share_rows=True) == scores
    shared = scores.for_sharing(5, share_rows=False)
    assert shared.rows is None
    assert shared.metrics["dice"]["WT"] == dice["WT"]
    assert shared.metrics["dice"]["ET"] == ScoreSums(both_empty=4, reference_empty=4, withheld=2)


def test_a_withheld_report_adds_nothing_to_the_pool() -> None:
    told = report([(0.5, False)] * 5)
    assert pool_scores([told, SplitScores(cases=3, withheld=True)]) == told


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": True},
        {"n": "1"},
        {"n": -1},
        {"sum": float("nan")},
        {"sum": float("inf")},
        {"n": 1, "sum": -0.5, "squares": 0.25},
        {"n": 1, "squares": -1.0},
        {"sum": 0.5},
        {"n": 1, "sum": 0.5, "squares": 0.1},
        {"n": 1, "false_positive": 2, "reference_empty": 2},
        {"n": 1, "false_positive": 1},
        {"both_empty": 1},
    ],
)
def test_rubbish_sums_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="ScoreSums"):
        ScoreSums.model_validate(wrong)


def dice(**score: object) -> dict[str, object]:
    return {"cases": 3, "metrics": {"dice": {"WT": score}}}


@pytest.mark.parametrize(
    "wrong",
    [
        dice(n=3, sum=3.1, squares=3.3),
        dice(n=3, sum=1.0, squares=2.0),
        dice(n=3, sum=3.0, squares=3.0, false_positive=1, reference_empty=1),
        dice(n=4, sum=1.0, squares=1.0),
        dice(n=3, sum=1.0, squares=1.0, failed=1),
        {"cases": 3, "withheld": True, "rows": [{"WT": 0.5}]},
        {"cases": 0, "rows": [{"WT": 0.5}]},
        {"cases": 1, "rows": [{"WT": 1.5}]},
        {"cases": 1, "metrics": {"Mueller": {}}},
        {"cases": 1, "metrics": {"dice": {"Mueller, Karl": {}}}},
        {"cases": 1, "rows": [{"Mueller, Karl": 0.5}]},
        {"cases": 1, "metrics": {"dice": {f"r{number}": {} for number in range(33)}}},
    ],
)
def test_scores_that_no_cases_can_have_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SplitScores"):
        SplitScores.model_validate(wrong)


def test_distances_are_not_bounded_as_a_dice_is() -> None:
    far = ScoreSums(n=2, sum=30.0, squares=500.0, both_empty=0, reference_empty=1)
    assert SplitScores(cases=3, metrics={"hd95": {"WT": far}}).mean_score("hd95") == 15
