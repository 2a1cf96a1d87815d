"""The headline's runs: every file is valid, cases lie where the page says, and ratios are of the same cases."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.headline import arms
from benchmarks.headline.dealing import deal_cases
from benchmarks.headline.reading import Found, compare_arms
from benchmarks.headline.studies import STUDIES, Run
from messages.experiment import Experiment
from messages.scores import SplitScores
from messages.tasks.histograms import bin_scores
from nets.registry import check_net


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_run_is_an_experiment_of_its_own_that_its_net_fits(study: object) -> None:
    assert isinstance(study, type(next(iter(STUDIES.values()))))
    found = [Experiment.model_validate(study.describe_run(run)) for run in study.runs]
    for one in found:
        check_net(one)
        assert one.evaluation.select_by == "last"
    assert len({one.id for one in found}) == len(found) == len({run.place for run in study.runs})
    assert {run.arm.name for run in study.runs} >= set(arms.BAR) | {"pooled"}
    cyclic = next(run for run in study.runs if run.arm.visits)
    assert study.describe_run(cyclic)["rounds"]["count"] == study.rounds * len(study.sites)


def test_the_uneven_split_goes_by_the_largest_intensity(tmp_path: Path) -> None:
    for inside in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / inside).mkdir(parents=True)
    for number in range(20):
        image = np.full((4, 4, 4), (number * 7) % 20 + 1, np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "data" / "imagesTr" / f"case_{number}.nii.gz")
        (tmp_path / "data" / "labelsTr" / f"case_{number}.nii.gz").touch()
    sites = ("a", "b", "c")
    deal_cases(tmp_path / "data", "uneven", sites, 1, tmp_path / "dealt")
    found = [sorted((tmp_path / "dealt" / site / "imagesTr").iterdir()) for site in sites]
    largest = [[nibabel.load(path).get_fdata().max() for path in paths] for paths in found]
    assert [len(paths) for paths in found] == [10, 8, 2]
    assert max(largest[0]) < min(largest[1]) <= max(largest[1]) < min(largest[2])


def test_the_smallest_scanners_are_one_site_and_the_other_hospital_is_another(tmp_path: Path) -> None:
    scanners = ["GE Logiq 5 @10", "GE Logiq 7 @10", "Toshiba Aplio", "U-Systems @10"]
    rows = [["image", "mask", "patient", "label", "site", "scanner"]]
    rows += [[f"images/{n}.jpg", f"masks/{n}.png", f"p{n}", "benign", "rio", name] for n, name in enumerate(scanners)]
    rows += [["images/9.jpg", "", "p9", "benign", "poland", ""]]
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    sites = STUDIES["breast-classes"].sites
    deal_cases(tmp_path / "data", "natural", sites, 1, tmp_path / "dealt")
    dealt = {}
    for site in sites:
        with (tmp_path / "dealt" / site / "labels.csv").open(newline="") as file:
            dealt[site] = [row["patient"] for row in csv.DictReader(file)]
    assert dealt == {"logiq-5": ["p0"], "logiq-7": ["p1"], "others": ["p2", "p3"], "poland": ["p9"]}


def find(study: str, scores: SplitScores) -> Found:
    run = Run("even", arms.FEDAVG, 1)
    reader = Experiment.model_validate(STUDIES[study].describe_run(run)).task.reader
    return Found(run, reader, {"site-a": scores}, [], 0.0, "")


def dice(*values: float) -> SplitScores:
    rows: list[dict[str, float | None]] = [{"anterior": one, "posterior": one} for one in values]
    sums = {"n": len(values), "sum": sum(values), "squares": sum(one * one for one in values)}
    return SplitScores.model_validate(
        {"cases": len(values), "rows": rows, "metrics": {"dice": {"anterior": sums, "posterior": sums}}}
    )


def test_a_ratio_is_paired_case_by_case_where_sites_tell_cases() -> None:
    """Cases differ much, and each loses one part in a hundred: nothing of their spread is in the interval."""
    pooled = [0.2, 0.4, 0.6, 0.8, 1.0]
    found = compare_arms(
        {1: find("hippocampus", dice(*(0.99 * one for one in pooled)))}, {1: find("hippocampus", dice(*pooled))}
    )
    assert found is not None
    assert found.paired
    assert [found.value, found.low, found.high] == pytest.approx([0.99] * 3)
    assert compare_arms({1: find("hippocampus", dice(1.0))}, {2: find("hippocampus", dice(1.0))}) is None


def test_of_histograms_the_interval_is_not_paired_and_holds_the_ratio() -> None:
    draw = np.random.default_rng(1)
    truth = [number % 2 == 0 for number in range(200)]
    scores = [min(1.0, max(0.0, 0.5 + (0.15 if one else -0.15) + 0.2 * draw.normal())) for one in truth]
    told = {
        "malignant": bin_scores(scores, truth),
        "benign": bin_scores([1 - s for s in scores], [not t for t in truth]),
    }
    one = find("breast-classes", SplitScores(cases=200, histograms=told))
    found = compare_arms({1: one}, {1: one})
    assert found is not None
    assert not found.paired
    assert found.value == 1
    assert 0.9 < found.low < 1 < found.high < 1.1
    assert not math.isnan(one.mean)
