"""Regression: each case has a number, out of a table beside the images: an age, a volume."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from messages.ground.strictness import StrictModel
from messages.scores import MOST_VALUE, ScoreSums, SplitScores, Target, sum_scores
from messages.tasks.base import Concept, MetricReading, ScoreReader, ScoreTable, Split, Task, TaskRows

Number = Annotated[float, Field(ge=-MOST_VALUE, le=MOST_VALUE)]


class NumberRow(StrictModel):
    """One case. `case` is its local name: it stays at the site. None: the case could not be scored."""

    case: str
    true: Number | None = None
    predicted: Number | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.true is None) != (self.predicted is None):
            raise ValueError("a case that was scored has both")
        return self


class NumberRows(TaskRows):
    """`centre`: what the experiment's file says, from which spread is told."""

    task: Literal["regression"] = "regression"
    quantity: Target
    centre: Number
    cases: list[NumberRow]

    def scores(self) -> SplitScores:
        pairs = [(one.true, one.predicted) for one in self.cases if one.true is not None and one.predicted is not None]
        failed = len(self.cases) - len(pairs)
        told = {
            "absolute-error": [abs(predicted - true) for true, predicted in pairs],
            "above": [max(0.0, true - self.centre) for true, _ in pairs],
            "below": [max(0.0, self.centre - true) for true, _ in pairs],
        }
        metrics = {
            name: {self.quantity: sum_scores(values, reference_empty=[False] * len(values), failed=failed)}
            for name, values in told.items()
        }
        rows: list[dict[str, float | None]] = [
            {self.quantity: None if one.true is None or one.predicted is None else abs(one.predicted - one.true)}
            for one in self.cases
        ]
        return SplitScores(cases=len(self.cases), metrics=metrics, rows=rows)


@dataclass(frozen=True)
class RegressionReader(ScoreReader):
    """Mean absolute error, root mean squared error and R², over all cases."""

    metric: ClassVar[str] = "absolute-error"
    metrics: ClassVar[tuple[str, ...]] = ("absolute-error", "rmse", "r2")
    target: ClassVar[str] = "quantity"
    plural: ClassVar[str] = "quantities"
    higher_is_better: ClassVar[bool] = False

    def read_others(self, scores: SplitScores) -> tuple[MetricReading, ...]:
        found = (
            MetricReading("rmse", _root_mean_square(self._sums(scores, self.metric)), {}, {}, {}),
            MetricReading("r2", self._explained(scores), {}, {}, {}),
        )
        return tuple(one for one in found if one.mean is not None)

    def other_tables(self, scores: SplitScores) -> tuple[ScoreTable, ...]:
        rows = tuple((one.metric.title, one.mean) for one in self.read_others(scores))
        return (ScoreTable("Over all test cases", ("", "value"), rows),) if rows else ()

    def asks_for(self, scores: SplitScores) -> bool:
        told = {name for targets in scores.metrics.values() for name in targets}
        told |= {name for row in scores.rows or () for name in row}
        return scores.metrics.keys() <= {"absolute-error", "above", "below"} and told <= set(self.targets)

    def _sums(self, scores: SplitScores, metric: str) -> ScoreSums:
        return scores.metrics.get(metric, {}).get(self.targets[0] if self.targets else "", ScoreSums())

    def _explained(self, scores: SplitScores) -> float | None:
        """R²: 1 - sum of squared errors / sum of squares about the mean. None where all cases have one value."""
        error, above, below = (self._sums(scores, name) for name in (self.metric, "above", "below"))
        if not error.n or above.n != error.n or below.n != error.n:
            return None
        spread = above.squares + below.squares - (above.sum - below.sum) ** 2 / error.n
        return 1 - error.squares / spread if spread > 0 else None


class RegressionTask(Task):
    """One number a case.

    Attributes:
        quantity: how it is called. unit: of its values, for people.
        centre, scale: the net is trained towards (value - centre) / scale, the same at each site.
    """

    kind: Literal["regression"]
    quantity: Concept
    unit: str = Field("", max_length=20)
    centre: Number = 0.0
    scale: float = Field(1.0, gt=0, le=MOST_VALUE)

    came_with: ClassVar[int] = 2
    truth: ClassVar[Literal["map", "table"]] = "table"
    losses: ClassVar[tuple[str, ...]] = ("mse", "l1", "huber")
    rows: ClassVar[type[TaskRows]] = NumberRows
    reader_type: ClassVar[type[ScoreReader]] = RegressionReader

    @classmethod
    def choose_defaults(cls, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        return cls.defaults_for_wholes(content)

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.quantity,)

    def encode_value(self, words: Sequence[str]) -> tuple[float, ...]:
        """The number itself."""
        if len(words) != 1:
            raise ValueError(f"{len(words)} values, and a case has one")
        try:
            value = float(words[0])
        except ValueError:
            raise ValueError(f"{words[0]!r:.60}, which is no number (38.5)") from None
        if not math.isfinite(value) or abs(value) > MOST_VALUE:
            raise ValueError(f"{words[0]!r:.60}, which is no number from -{MOST_VALUE:g} to {MOST_VALUE:g}")
        return (value,)

    def rows_of_answers(
        self, split: Split, truths: Sequence[Sequence[float]], answers: Sequence[Sequence[float]]
    ) -> TaskRows:
        """Of numbers in the quantity's own unit."""
        rows = [
            NumberRow(case=f"{split}-{number}", true=float(true[0]), predicted=float(answer[0]))
            for number, (true, answer) in enumerate(zip(truths, answers, strict=True))
        ]
        return NumberRows(split=split, quantity=self.quantity, centre=self.centre, cases=rows)

    def invent_word(self, number: int) -> str:
        return f"{self.centre + number * self.scale}"

    def describe_outputs(self) -> dict[str, Any]:
        return {"quantity": self.quantity, "unit": self.unit, "centre": self.centre, "scale": self.scale}

    def rehearse_split(self, split: Split, cases: int) -> TaskRows:
        rows = [NumberRow(case=f"{split}-{n}", true=self.centre + n, predicted=self.centre) for n in range(cases)]
        return NumberRows(split=split, quantity=self.quantity, centre=self.centre, cases=rows)


def _root_mean_square(sums: ScoreSums) -> float | None:
    return math.sqrt(sums.squares / sums.n) if sums.n else None
