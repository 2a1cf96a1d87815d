"""What a site reports of an evaluation, and how reports pool (docs/architecture.md, rules of evaluation 3 to 5).

For each metric and region: sums and counts, no per-case score unless the site shares them. Reference and
prediction both empty: left out and counted. Reference empty, prediction not: scored (Dice 0) and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from messages.ground.strictness import StrictModel, at_most

Count = Annotated[int, Field(ge=0, le=2**53)]
Sum = Annotated[float, Field(ge=0)]
Metric = Annotated[str, Field(pattern=r"^(dice|hd95)$")]
Region = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
MOST_REGIONS, MOST_ROWS = 32, 100_000
ROUNDING = 1e-6
"""Relative; sums of many floats, added up in any order, differ by less."""


class RegionScore(StrictModel):
    """One metric of one region over a site's cases."""

    n: Count = 0
    """Cases that were scored."""
    sum: Sum = 0.0
    squares: Sum = 0.0
    both_empty: Count = 0
    """Left out: neither reference nor prediction has the region."""
    reference_empty: Count = 0
    """Cases whose reference is empty (both_empty included)."""
    false_positive: Count = 0
    """Reference empty, prediction not: part of `n` for Dice, with score 0."""
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

    def __add__(self, other: RegionScore) -> RegionScore:
        return RegionScore(**{key: getattr(self, key) + getattr(other, key) for key in RegionScore.model_fields})


Row = Annotated[dict[Region, Annotated[float, Field(ge=0, le=1)] | None], at_most(MOST_REGIONS)]


class SplitScores(StrictModel):
    """Scores of one model on one split at one site, or pooled over sites."""

    cases: Count
    withheld: bool = False
    """Fewer cases than the site's floor: only `cases` is told."""
    metrics: Annotated[
        dict[Metric, Annotated[dict[Region, RegionScore], at_most(MOST_REGIONS)]], at_most(MOST_REGIONS)
    ] = {}
    """Metric → region → sums."""
    rows: Annotated[list[Row], Field(fail_fast=True), at_most(MOST_ROWS)] | None = None
    """Dice by region for each case, in the split's keyed order, only where the site's policy shares them;
    None is left out (both empty)."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.withheld and (self.metrics or self.rows):
            raise ValueError("what is withheld is not told")
        for score in (score for regions in self.metrics.values() for score in regions.values()):
            if score.n + score.both_empty + score.failed + score.withheld > self.cases:
                raise ValueError("more cases are scored or left out than there are")
        for dice in self.metrics.get("dice", {}).values():
            most = (dice.n - dice.false_positive) * (1 + ROUNDING)
            if dice.sum > most or dice.squares > dice.sum * (1 + ROUNDING):
                raise ValueError("a Dice is at most 1, and 0 for a false positive")
        if self.rows is not None and len(self.rows) > self.cases:
            raise ValueError("one row a case")
        return self

    def mean(self, metric: str = "dice") -> float | None:
        """Region mean over cases, then mean over regions (rule 4); None where no region was scored."""
        means = [score.mean for score in self.metrics.get(metric, {}).values() if score.mean is not None]
        return sum(means) / len(means) if means else None

    def regions(self, metric: str = "dice") -> dict[str, float | None]:
        """Mean for each region."""
        return {region: score.mean for region, score in self.metrics.get(metric, {}).items()}

    def for_sharing(self, floor: int, share_rows: bool) -> SplitScores:
        """What may leave the site: nothing but the count below the floor, rows only where shared.

        The floor holds for each region too (rule 5): from sum and squares of one or two cases each score follows.
        """
        if self.cases < floor:
            return SplitScores(cases=self.cases, withheld=True)
        if share_rows:
            return self
        metrics = {
            metric: {region: _floored(score, floor) for region, score in regions.items()}
            for metric, regions in self.metrics.items()
        }
        return SplitScores(cases=self.cases, withheld=self.withheld, metrics=metrics)


def _floored(score: RegionScore, floor: int) -> RegionScore:
    if score.n == 0 or score.n >= floor:
        return score
    return RegionScore(
        both_empty=score.both_empty,
        reference_empty=score.reference_empty,
        failed=score.failed,
        withheld=score.n,
    )


def tally(scores: Iterable[float | None], *, reference_empty: Iterable[bool], failed: int = 0) -> RegionScore:
    """Sums of one metric of one region.

    Args:
        scores: one a case; None where reference and prediction are both empty.
        reference_empty: for each case, whether its reference is empty.
        failed: cases that could not be scored at all.
    """
    n = both = empty = false_positive = 0
    total = squares = 0.0
    for score, is_empty in zip(scores, reference_empty, strict=True):
        empty += is_empty
        if score is None:
            both += 1
            continue
        n += 1
        false_positive += is_empty
        total += score
        squares += score * score
    return RegionScore(
        n=n,
        sum=total,
        squares=squares,
        both_empty=both,
        reference_empty=empty,
        false_positive=false_positive,
        failed=failed,
    )


def pool(reports: Iterable[SplitScores]) -> SplitScores:
    """All cases of all sites together ("overall", rule 4); withheld reports add only to nothing."""
    cases = 0
    metrics: dict[str, dict[str, RegionScore]] = {}
    for report in reports:
        if report.withheld:
            continue
        cases += report.cases
        for metric, regions in report.metrics.items():
            into = metrics.setdefault(metric, {})
            for region, score in regions.items():
                into[region] = into[region] + score if region in into else score
    return SplitScores(cases=cases, metrics=metrics)
