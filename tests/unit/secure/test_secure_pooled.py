"""What is pooled under masks reads as what open reports pool to; weights under a cap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from class_task import class_experiment
from coordinator_kit import plain
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.secure.weights import weigh_sites
from messages.experiment import Experiment
from messages.scores import ScoreSums, SplitScores, is_sound
from messages.secure.figures import decode_figures, encode_figures
from messages.secure.pooled import list_scores, read_scores, tell_scores
from messages.tasks.classification import ClassRow, ClassRows

SEGMENTATION = Experiment.model_validate(plain(evaluation={"metrics": ["dice", "hd95"]}))
CLASSES = class_experiment()


def pool(experiment: Experiment, reports: Iterable[SplitScores]) -> SplitScores | None:
    """What comes out of the sum of the sites' words."""
    table = list_scores(experiment, "test")
    words = [encode_figures(table, tell_scores("test", one)) for one in reports]
    return read_scores(experiment, "test", decode_figures(table, np.add.reduce(words, dtype=np.uint64)))


def dice_of(cases: list[float]) -> SplitScores:
    told = ScoreSums(n=len(cases), sum=sum(cases), squares=sum(one * one for one in cases))
    far = ScoreSums(n=len(cases), sum=sum(60 * one for one in cases), squares=sum(3600 * one * one for one in cases))
    return SplitScores(cases=len(cases), metrics={"dice": {"WT": told}, "hd95": {"WT": far}})


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=5), min_size=3, max_size=8))
def test_pooled_scores_of_structures_are_those_of_open_reports_to_a_millionth(sites: list[list[float]]) -> None:
    reports = [dice_of(cases) for cases in sites]
    found, expected = pool(SEGMENTATION, reports), SEGMENTATION.task.reader.pool_reports(reports)
    assert found is not None
    assert is_sound(found)
    assert found.cases == expected.cases
    for metric, places in (("dice", 1e-6), ("hd95", 1e-4)):
        one, other = found.metrics[metric]["WT"], expected.metrics[metric]["WT"]
        assert one.n == other.n
        assert one.sum == pytest.approx(other.sum, abs=places)


def test_pooled_scores_of_classes_are_those_of_open_reports() -> None:
    rng = np.random.default_rng(3)
    reports = []
    for cases in (4, 9, 6):
        rows = [
            ClassRow(
                case=str(number),
                classes=[("benign", "malignant")[int(rng.random() < 0.4)]],
                predicted={"benign": 1 - chance, "malignant": chance},
            )
            for number, chance in enumerate(map(float, rng.random(cases)))
        ]
        told = ClassRows(split="test", classes=["benign", "malignant"], cases=rows).scores()
        reports.append(told.for_sharing(1, share_rows=False))
    found, expected = pool(CLASSES, reports), CLASSES.task.reader.pool_reports(reports)
    assert found is not None
    assert (found.histograms, found.confusion) == (expected.histograms, expected.confusion)
    reader = CLASSES.task.reader
    assert reader.headline_score(found) == reader.headline_score(expected)


def test_a_site_that_withholds_its_scores_adds_its_cases_alone() -> None:
    few = SplitScores(cases=2, withheld=True)
    found = pool(SEGMENTATION, [dice_of([0.5, 0.75]), few])
    assert found is not None
    assert (found.cases, found.metrics["dice"]["WT"].n, found.metrics["dice"]["WT"].sum) == (4, 2, 1.25)


CASES = st.dictionaries(st.sampled_from([f"site-{n}" for n in range(12)]), st.integers(1, 10**6), min_size=2)


@given(CASES, st.floats(0.01, 1.0))
def test_no_weight_is_above_a_sites_cases_and_the_cap_holds(cases: dict[str, int], cap: float) -> None:
    weights = weigh_sites(cases, weight_by="cases_used", cap=cap)
    assert weights.keys() == cases.keys()
    assert all(1 <= weights[site] <= cases[site] for site in cases)
    limit, total = max(cap, 1 / len(cases)), sum(weights.values())
    assert all(weight <= max(1, limit * total + 1) for weight in weights.values())
    if max(cases.values()) <= limit * sum(cases.values()):
        assert weights == cases


def test_under_equal_weights_each_site_weighs_one() -> None:
    assert weigh_sites({"a": 5, "b": 9}, weight_by="equal", cap=1.0) == {"a": 1, "b": 1}
