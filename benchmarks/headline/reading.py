"""What finished runs say: read from event logs, and from the pooled runs' reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.headline.running import Shelf
from benchmarks.headline.studies import Run
from deploy.baseline import Rows, read_result
from deploy.session.history import story_of_file
from deploy.story.matrix import CrossSite, read_matrix
from messages.experiment import read_experiment
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """A finished run.

    Attributes:
        sites: test scores by site. curve: (cycles or rounds, validation score). seconds: real, of the whole run.
    """

    run: Run
    reader: ScoreReader
    sites: Mapping[str, SplitScores]
    curve: Sequence[tuple[float, float]]
    seconds: float
    digest: str
    matrix: CrossSite | None = None

    @property
    def pooled(self) -> SplitScores:
        return self.reader.pool_reports(self.sites.values())

    @property
    def mean(self) -> float:
        found = self.reader.headline_score(self.pooled)
        return float("nan") if found is None else found

    def mean_at(self, site: str) -> float:
        found = self.reader.headline_score(self.sites[site]) if site in self.sites else None
        return float("nan") if found is None else found


def read_run(shelf: Shelf, run: Run) -> Found:
    """A finished run's scores."""
    reader = read_experiment(shelf.folder_of(run) / "experiment.toml").task.reader
    if run.arm.plan is None:
        (one,) = read_result(shelf.result_of(run))
        curve = [(point.epoch, point.score) for point in one.curve]
        return Found(run, reader, one.sites, curve, one.seconds or 0.0, "")
    story = story_of_file(shelf.log_of(run))
    if story.test is None:
        raise SystemExit(f"{run.place}: the log tells no test scores")
    cycle = len(shelf.study.sites) if run.arm.visits else 1
    points = [(point.round / cycle, reader.headline_score(point.pooled)) for point in story.validation_curve()]
    curve = [(at, score) for at, score in points if score is not None]
    seconds = float(json.loads(shelf.result_of(run).read_text())["seconds"])
    matrix = read_matrix(story, "test")
    return Found(run, reader, story.test.sites, curve, seconds, story.model_digest or "", matrix)


@dataclass(frozen=True, slots=True)
class Ratio:
    """One arm's score over another's, with its 95 % percentile interval; `paired`: case by case."""

    value: float
    low: float
    high: float
    seeds: int
    paired: bool


def compare_arms(ours: Mapping[int, Found], theirs: Mapping[int, Found]) -> Ratio | None:
    """Over the seeds that both have.

    Where sites tell each case's score, cases are drawn with replacement within each site and seed, the same ones for
    both (Efron and Tibshirani 1993). Where they tell histograms, each arm's cases are drawn on their own, so the
    interval is wider than a paired one. Seeds test overlapping cases: the interval is of these cases, not of others.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    value = np.mean([ours[seed].mean for seed in seeds]) / np.mean([theirs[seed].mean for seed in seeds])
    both = [(ours[seed].sites[site], theirs[seed].sites[site]) for seed in seeds for site in sorted(ours[seed].sites)]
    rng = np.random.default_rng(0)
    if all(one.rows is not None and other.rows is not None for one, other in both):
        drawn = _draw_paired([(one.rows or [], other.rows or []) for one, other in both if one.rows], rng)
    elif all(one.histograms and other.histograms for one, other in both):
        drawn = _draw_apart([(ours[seed].pooled, theirs[seed].pooled) for seed in seeds], rng)
    else:
        return Ratio(float(value), float("nan"), float("nan"), len(seeds), paired=False)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Ratio(float(value), float(low), float(high), len(seeds), paired=both[0][0].rows is not None)


def _draw_paired(strata: Sequence[tuple[Rows, Rows]], rng: np.random.Generator) -> NDArray[np.float64]:
    targets = sorted({target for rows, _ in strata for row in rows for target in row})
    arrays = [[_as_array(rows, targets) for rows in pair] for pair in strata]
    drawn = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        picks = [rng.integers(len(pair[0]), size=len(pair[0])) for pair in arrays]
        ours, theirs = (
            np.concatenate([pair[side][pick] for pair, pick in zip(arrays, picks, strict=True)]) for side in (0, 1)
        )
        drawn[index] = np.nanmean(np.nanmean(ours, axis=0)) / np.nanmean(np.nanmean(theirs, axis=0))
    return drawn


def _as_array(rows: Rows, targets: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[np.nan if (score := row.get(target)) is None else score for target in targets] for row in rows])


def _draw_apart(pairs: Sequence[tuple[SplitScores, SplitScores]], rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        ours, theirs = (np.mean([_redraw(pair[side], rng) for pair in pairs]) for side in (0, 1))
        drawn[index] = ours / theirs
    return drawn


def _redraw(scores: SplitScores, rng: np.random.Generator) -> float:
    """Mean AUC over the classes of as many cases, drawn from the histograms."""
    found = []
    for told in scores.histograms.values():
        positive, negative = (
            rng.multinomial(sum(counts), np.array(counts) / max(1, sum(counts)))
            for counts in (told.positive, told.negative)
        )
        below = np.concatenate([[0], np.cumsum(negative)[:-1]])
        pairs = positive.sum() * negative.sum()
        found.append((positive * (below + negative / 2)).sum() / pairs if pairs else np.nan)
    return float(np.nanmean(found))
