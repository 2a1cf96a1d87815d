"""What a site reports of an evaluation, and how reports pool (docs/protocol.md, rules of evaluation 3 to 5).

For each metric and target (what a task scores apart: a structure, a class, a quantity): sums and counts, no per-case
score unless the site shares them. Which metrics and targets there are, and how they read, is the task's
(`messages.tasks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from messages.ground.strictness import StrictModel, at_most
from messages.tasks.histograms import ScoreHistogram
from messages.tasks.metrics import METRICS

Count = Annotated[int, Field(ge=0, le=2**53)]
Sum = Annotated[float, Field(ge=0)]
Target = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
MOST_TARGETS, MOST_ROWS = 32, 100_000
ROUNDING = 1e-6
"""Relative; sums of many floats, added up in any order, differ by less."""
SOUND = ROUNDING / 2
"""Sums of many reports, each within this, are within `ROUNDING`."""
MOST_CASES = 10**9
"""Of one site: so sums over all sites stay whole numbers."""
MOST_VALUE = 1e9
"""Of a metric that has no largest value: a distance of 10^9 mm."""


def _known_metric(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError("no task has this metric")
    return metric


MetricName = Annotated[str, AfterValidator(_known_metric)]


class ScoreSums(StrictModel):
    """One metric of one target over a site's cases."""

    n: Count = 0
    """Cases that were scored."""
    sum: Sum = 0.0
    squares: Sum = 0.0
    both_empty: Count = 0
    """Left out: neither reference nor prediction has the target."""
    reference_empty: Count = 0
    """Cases whose reference is empty (both_empty included)."""
    false_positive: Count = 0
    """Reference empty, prediction not: part of `n` with score 0, where the metric counts that as nothing found."""
    failed: Count = 0
    withheld: Count = 0
    """Scored cases of a site with fewer of them than its floor: not part of `n` and the sums."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.false_positive > self.n:
            raise ValueError("false positives are scored cases")
        if self.both_empty + self.false_positive > self.reference_empty:
            raise ValueError("both_empty and false_positive are cases whose reference is empty")
        if self.sum * self.sum > self.n * self.squares * (1 + ROUNDING) + ROUNDING:
            raise ValueError("no scores of n cases have this sum and these squares")
        return self

    @property
    def mean(self) -> float | None:
        """Mean over the scored cases; None where there is none."""
        return self.sum / self.n if self.n else None

    @property
    def std(self) -> float | None:
        """Standard deviation over the scored cases."""
        if self.n < 2:
            return None
        return math.sqrt(max(0.0, self.squares / self.n - (self.sum / self.n) ** 2) * self.n / (self.n - 1))

    @property
    def mean_nonempty(self) -> float | None:
        """Mean over cases whose reference is not empty (false positives scored 0, so their part of the sum is 0)."""
        n = self.n - self.false_positive
        return self.sum / n if n > 0 else None

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(**{key: getattr(self, key) + getattr(other, key) for key in ScoreSums.model_fields})


Row = Annotated[dict[Target, Sum | None], at_most(MOST_TARGETS)]
ConfusionRow = Annotated[dict[Target, Count], at_most(MOST_TARGETS)]


class SplitScores(StrictModel):
    """Scores of one model on one split at one site, or pooled over sites."""

    cases: Count
    withheld: bool = False
    """Fewer cases than the site's floor: only `cases` is told."""
    metrics: Annotated[
        dict[MetricName, Annotated[dict[Target, ScoreSums], at_most(MOST_TARGETS)]], at_most(MOST_TARGETS)
    ] = {}
    """Metric → target → sums."""
    rows: Annotated[list[Row], Field(fail_fast=True), at_most(MOST_ROWS)] | None = None
    """The task's main metric by target for each case, in the split's keyed order, only where the site's policy shares
    them; None is left out (both empty)."""
    histograms: Annotated[dict[Target, ScoreHistogram], at_most(MOST_TARGETS)] = Field(
        {}, exclude_if=lambda value: not value
    )
    """Predicted probabilities by class, where a task has classes."""
    confusion: Annotated[dict[Target, ConfusionRow], at_most(MOST_TARGETS)] = Field(
        {}, exclude_if=lambda value: not value
    )
    """True class → predicted class → cases, where classes exclude each other."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.withheld and (self.metrics or self.rows or self.histograms or self.confusion):
            raise ValueError("what is withheld is not told")
        if any(one.positives + one.negatives > self.cases for one in self.histograms.values()):
            raise ValueError("a histogram counts more cases than there are")
        if sum(sum(row.values()) for row in self.confusion.values()) > self.cases:
            raise ValueError("the confusion matrix counts more cases than there are")
        for score in (score for targets in self.metrics.values() for score in targets.values()):
            if score.n + score.both_empty + score.failed + score.withheld > self.cases:
                raise ValueError("more cases are scored or left out than there are")
        for name, targets in self.metrics.items():
            for score in targets.values():
                _check_bounds(name, score)
        if self.rows is not None and len(self.rows) > self.cases:
            raise ValueError("one row a case")
        most = next((METRICS[name].most for name in self.metrics if METRICS[name].headline), 1.0)
        values = (value for row in self.rows or () for value in row.values() if value is not None)
        if most is not None and any(value > most for value in values):
            raise ValueError(f"a case's score is at most {most:g}")
        return self

    def mean_score(self, metric: str) -> float | None:
        """Mean over cases for each target, then mean over targets (rule 4); None where none was scored."""
        means = [mean for mean in self.by_target(metric).values() if mean is not None]
        return sum(means) / len(means) if means else None

    def by_target(self, metric: str) -> dict[str, float | None]:
        """Mean over cases for each target."""
        return {target: score.mean for target, score in self.metrics.get(metric, {}).items()}

    def for_sharing(self, floor: int, share_rows: bool) -> SplitScores:
        """What may leave the site: nothing but the count below the floor, rows only where shared.

        The floor holds for each target too (rule 5): from sum and squares of one or two cases each score follows. So it
        does for the cases of a class, and for all others, in a histogram; and for each row of the confusion matrix.
        """
        if self.cases < floor:
            return SplitScores(cases=self.cases, withheld=True)
        if share_rows:
            return self
        metrics = {
            metric: {target: _apply_floor(score, floor) for target, score in targets.items()}
            for metric, targets in self.metrics.items()
        }
        return SplitScores(
            cases=self.cases,
            withheld=self.withheld,
            metrics=metrics,
            histograms={target: one for target, one in self.histograms.items() if not one.is_below(floor)},
            confusion={target: row for target, row in self.confusion.items() if sum(row.values()) >= floor},
        )


def _check_bounds(metric: str, score: ScoreSums) -> None:
    """Raises ValueError where no cases can have these sums."""
    rule = METRICS[metric]
    if rule.most is None:
        return
    found = score.n - score.false_positive if rule.nothing_found else score.n
    most = rule.most * (1 + ROUNDING)
    if score.sum > found * most or score.squares > score.sum * most:
        nothing = ", and 0 for a false positive" if rule.nothing_found else ""
        raise ValueError(f"{rule.title} is at most {rule.most:g}{nothing}")


def _apply_floor(score: ScoreSums, floor: int) -> ScoreSums:
    if score.n == 0 or score.n >= floor:
        return score
    return ScoreSums(
        both_empty=score.both_empty,
        reference_empty=score.reference_empty,
        failed=score.failed,
        withheld=score.n,
    )


def sum_scores(scores: Iterable[float | None], *, reference_empty: Iterable[bool], failed: int = 0) -> ScoreSums:
    """Sums of one metric of one target.

    Args:
        scores: one a case; None where the metric has no value for it, as where reference and prediction are both
            empty. A distance has none where only one of them is, either.
        reference_empty: for each case, whether its reference is empty.
        failed: cases that could not be scored at all.

    `both_empty` takes a case without a value whose reference is empty to have an empty prediction too; a metric for
    which that is not so says how many there are.
    """
    n = both = empty = false_positive = 0
    total = squares = 0.0
    for score, is_empty in zip(scores, reference_empty, strict=True):
        empty += is_empty
        if score is None:
            both += is_empty
            continue
        n += 1
        false_positive += is_empty
        total += score
        squares += score * score
    return ScoreSums(
        n=n,
        sum=total,
        squares=squares,
        both_empty=both,
        reference_empty=empty,
        false_positive=false_positive,
        failed=failed,
    )


def is_sound(scores: SplitScores) -> bool:
    """Whether some cases can have these scores, with room for rounding: such scores pool with each other.

    `SplitScores` itself is more lenient, and stays so, since old logs hold what it let in: there pooling may raise.
    """
    return (
        scores.cases <= MOST_CASES
        and all(_is_possible(metric, score) for metric, targets in scores.metrics.items() for score in targets.values())
        and all(
            sum(row.values()) == scores.histograms[target].positives
            for target, row in scores.confusion.items()
            if target in scores.histograms
        )
    )


def _is_possible(metric: str, score: ScoreSums) -> bool:
    rule, more = METRICS[metric], 1 + SOUND
    most = MOST_VALUE if rule.most is None else rule.most
    found = score.n - score.false_positive if rule.nothing_found else score.n
    counts = (score.n, score.both_empty, score.reference_empty, score.false_positive, score.failed, score.withheld)
    return (
        max(counts) <= MOST_CASES
        and score.sum <= found * most * more
        and score.squares <= score.sum * most * more
        and score.sum * score.sum <= score.n * score.squares * more
    )


def pool_scores(reports: Iterable[SplitScores]) -> SplitScores:
    """All cases of all sites together ("overall", rule 4); withheld reports add only to nothing."""
    cases = 0
    metrics: dict[str, dict[str, ScoreSums]] = {}
    histograms: dict[str, ScoreHistogram] = {}
    confusion: dict[str, dict[str, int]] = {}
    for report in reports:
        if report.withheld:
            continue
        cases += report.cases
        for metric, targets in report.metrics.items():
            into = metrics.setdefault(metric, {})
            for target, score in targets.items():
                into[target] = into[target] + score if target in into else score
        for target, one in report.histograms.items():
            histograms[target] = histograms[target] + one if target in histograms else one
        for target, told in report.confusion.items():
            row = confusion.setdefault(target, {})
            for predicted, count in told.items():
                row[predicted] = row.get(predicted, 0) + count
    return SplitScores(cases=cases, metrics=metrics, histograms=histograms, confusion=confusion)
