"""Scores of classes: what pools from sites' bins is what all cases say at once, and few cases do not leave a site."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from class_task import class_experiment
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import mannwhitneyu

from deploy.cli.words import score_words
from messages import kinds
from messages.scores import SplitScores, is_sound, pool_scores
from messages.tasks.classification import ClassificationReader, ClassRow, ClassRows
from messages.tasks.histograms import BINS, HALF, ScoreHistogram, bin_scores, find_bin
from messages.words import needed_vocabulary

CLASSES = ["benign", "malignant"]
READER = ClassificationReader(tuple(CLASSES))
CASE = st.tuples(st.floats(0, 1), st.booleans())
SITES = st.lists(st.lists(CASE, max_size=12), min_size=1, max_size=4)


def report(cases: list[tuple[float, bool]], failed: int = 0) -> SplitScores:
    """Args: `cases`: probability of malignant, and whether it is."""
    rows = [
        ClassRow(case=str(n), classes=[CLASSES[true]], predicted={"benign": 1 - p, "malignant": p})
        for n, (p, true) in enumerate(cases)
    ]
    lost = [ClassRow(case=f"lost-{n}", failed=True) for n in range(failed)]
    return ClassRows(split="test", classes=CLASSES, cases=[*rows, *lost]).scores()


def drawn(cases: int, seed: int = 1) -> list[tuple[float, bool]]:
    rng = np.random.default_rng(seed)
    truths = rng.random(cases) < 0.4
    return [(float(1 / (1 + np.exp(-rng.normal(1.5 * true - 0.7, 1)))), bool(true)) for true in truths]


@given(SITES)
def test_pooled_sites_score_as_all_cases_at_once(sites: list[list[tuple[float, bool]]]) -> None:
    pooled, whole = pool_scores(map(report, sites)), report([case for site in sites for case in site])
    assert pooled.histograms.keys() == whole.histograms.keys()
    assert pooled.confusion == whole.confusion
    assert READER.headline_score(pooled) == READER.headline_score(whole)
    for one, other in zip(READER.read_others(pooled), READER.read_others(whole), strict=True):
        assert (one.name, one.n) == (other.name, other.n)
        assert one.mean == pytest.approx(other.mean)


@given(st.lists(CASE, min_size=2, max_size=40).filter(lambda cases: len({true for _, true in cases}) == 2))
def test_the_area_is_as_near_to_that_of_the_probabilities_as_it_says(cases: list[tuple[float, bool]]) -> None:
    one = bin_scores([p for p, _ in cases], [true for _, true in cases])
    found, error = one.auc, one.auc_error
    positives, negatives = [p for p, true in cases if true], [p for p, true in cases if not true]
    exact = mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    assert found is not None
    assert error is not None
    assert abs(found - exact) <= error + 1e-12


def test_the_area_of_a_usual_set_is_right_to_two_digits() -> None:
    one = report(drawn(300)).histograms["malignant"]
    assert one.auc_error is not None
    assert one.auc_error < 0.01


def test_the_roc_goes_from_nothing_to_all_and_has_the_area_below_it() -> None:
    one = report(drawn(40)).histograms["malignant"]
    points = one.roc
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points)) == pytest.approx(one.auc)
    assert bin_scores([0.5], [True]).roc == ()


def test_bins_are_narrow_towards_certainty_and_half_is_an_edge() -> None:
    assert [find_bin(p) for p in (0.0, 1.0, 0.5, np.nextafter(0.5, 0))] == [0, BINS - 1, HALF, HALF - 1]
    assert find_bin(0.001) > find_bin(0.0002)
    one = bin_scores([0.5, 0.4, 0.9, 0.2], [True, True, False, False])
    assert (one.sensitivity, one.specificity, one.right) == (0.5, 0.5, 2)


def test_calibration_of_a_net_that_is_too_sure_is_what_it_is_off_by() -> None:
    assert bin_scores([0.9] * 10, [True] * 6 + [False] * 4).calibration_error == pytest.approx(0.3, abs=0.008)
    assert bin_scores([0.6] * 10, [True] * 6 + [False] * 4).calibration_error == pytest.approx(0.0, abs=0.008)
    assert bin_scores([], []).calibration_error is None


def test_the_confusion_matrix_says_accuracy_sensitivity_specificity_and_kappa() -> None:
    cases = [(0.9, True)] * 3 + [(0.1, True)] + [(0.2, False)] * 4 + [(0.8, False)] * 2
    scores = report(cases, failed=1)
    assert scores.cases == 11
    assert scores.confusion == {"malignant": {"malignant": 3, "benign": 1}, "benign": {"benign": 4, "malignant": 2}}
    found = {one.name: one for one in READER.read_others(scores)}
    assert found["accuracy"].mean == pytest.approx(0.7)
    assert found["balanced-accuracy"].mean == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert found["sensitivity"].targets == {"benign": pytest.approx(4 / 6), "malignant": pytest.approx(3 / 4)}
    assert found["specificity"].targets == {"benign": pytest.approx(3 / 4), "malignant": pytest.approx(4 / 6)}
    agree, chance = 0.7, 0.4 * 0.5 + 0.6 * 0.5
    assert found["kappa"].mean == pytest.approx((agree - chance) / (1 - chance))
    assert found["brier"].mean == pytest.approx((4 * 0.01 + 0.81 + 4 * 0.04 + 2 * 0.64 - 0.01) / 10)
    assert scores.metrics["brier"]["benign"].failed == 1


def test_without_a_case_of_one_class_the_area_has_no_value() -> None:
    scores = report([(0.2, False), (0.7, False)])
    assert READER.headline_score(scores) is None
    assert READER.by_target(scores) == {"benign": None, "malignant": None}
    assert score_words(scores, READER) == "- (no two kinds of cases, or too few to tell)"
    assert READER.detail_table(scores).rows[1][:4] == ("malignant", 0, 2, None)


def test_a_class_below_the_floor_leaves_the_site_neither_in_bins_nor_in_the_matrix() -> None:
    scores = report([(0.9, True)] * 2 + [(0.3, False)] * 8)
    told = scores.for_sharing(5, share_rows=False)
    assert told.histograms == {}
    assert told.confusion == {"benign": {"benign": 8}}
    assert told.metrics == scores.metrics  # over all ten cases
    assert scores.for_sharing(2, share_rows=False) == scores
    assert scores.for_sharing(5, share_rows=True) == scores
    few = scores.for_sharing(11, share_rows=False)
    assert (few.withheld, few.histograms, few.confusion) == (True, {}, {})
    assert READER.headline_score(few) is None


def test_old_scores_say_nothing_of_bins() -> None:
    plain = SplitScores(cases=3).model_dump()
    assert plain.keys() == {"cases", "withheld", "metrics", "rows"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"cases": 9},
        {"withheld": True, "metrics": {}},
        {"histograms": {"benign": {"positive": [1] * 99, "negative": [0] * 100}}},
        {"histograms": {"benign": {"positive": [-1] * 100, "negative": [0] * 100}}},
        {"confusion": {"benign": {"benign": 11}}},
    ],
)
def test_counts_that_no_cases_can_have_are_refused(wrong: dict[str, object]) -> None:
    plain = report(drawn(10)).model_dump()
    SplitScores.model_validate(plain)
    with pytest.raises(ValidationError):
        SplitScores.model_validate(plain | wrong)


def test_a_matrix_that_contradicts_the_bins_is_implausible() -> None:
    scores = report(drawn(10))
    assert is_sound(scores)
    assert not is_sound(scores.model_copy(update={"confusion": {"benign": {"benign": 1}}}))


@pytest.mark.parametrize("name", ["histograms", "confusion"])
def test_classes_that_the_experiment_does_not_name_are_foreign(name: str) -> None:
    scores = report(drawn(10))
    assert READER.asks_for(scores)
    strange: dict[str, object] = {
        "histograms": {"Mueller": scores.histograms["benign"]},
        "confusion": {"benign": {"Mueller": 1}},
    }
    assert not READER.asks_for(scores.model_copy(update={name: strange[name]}))


def test_a_reader_of_older_words_is_told_that_these_are_newer() -> None:
    body = kinds.Evaluated(
        scores={"final": kinds.ModelScores(model_digest="0" * 64, splits={"test": report(drawn(8))})}
    )
    assert needed_vocabulary("evaluated", body) == 4


def test_several_classes_at_a_time_are_scored_each_by_itself() -> None:
    rows = [
        ClassRow(case=str(n), classes=classes, predicted={"mass": mass, "edema": edema})
        for n, (classes, mass, edema) in enumerate(
            [(["mass"], 0.9, 0.2), (["mass", "edema"], 0.8, 0.4), ([], 0.6, 0.1), (["edema"], 0.1, 0.9)]
        )
    ]
    scores = ClassRows(split="test", labels="multi", classes=["mass", "edema"], cases=rows).scores()
    reader = ClassificationReader(("mass", "edema"))
    assert scores.confusion == {}
    assert reader.by_target(scores) == {"mass": 1.0, "edema": 1.0}
    found = {one.name: one for one in reader.read_others(scores)}
    assert found["accuracy"].mean == pytest.approx(6 / 8)
    assert found["sensitivity"].targets == {"mass": 1.0, "edema": 0.5}
    assert found["specificity"].targets == {"mass": 0.5, "edema": 1.0}
    assert "kappa" not in found


def test_the_rows_of_a_trainer_that_trains_nothing_are_of_the_task() -> None:
    task = class_experiment().task
    scores = task.rehearse_split("test", 6).scores()
    assert task.reader.asks_for(scores)
    assert is_sound(scores)
    assert isinstance(scores.histograms["benign"], ScoreHistogram)
