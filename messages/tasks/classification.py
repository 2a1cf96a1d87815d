"""Classification: each case is of a class, out of a table beside the images.

Classes exclude each other ("exclusive"), or come in any number ("multi"), or have an order ("ordinal"). A net of
ordered classes says for each class but the first how likely a case lies at it or above (Li and Lin 2006).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from messages.ground.strictness import StrictModel, at_most
from messages.scores import MOST_TARGETS, SplitScores, Target, sum_scores
from messages.tasks.base import (
    Concept,
    MetricReading,
    Reading,
    ScoreCurve,
    ScoreReader,
    ScoreTable,
    Split,
    Task,
    TaskRows,
)
from messages.tasks.histograms import bin_scores
from messages.tasks.losses import LossTable

Labels = Literal["exclusive", "multi", "ordinal"]
Probability = Annotated[float, Field(ge=0, le=1)]
NONE = "none"
"""What a table says of a case that has none of several classes."""


class ClassRow(StrictModel):
    """One case. `case` is its local name: it stays at the site.

    Attributes:
        failed: the case could not be scored; counted, never skipped. The rest is empty then.
        classes: what it is. predicted: probability of each class.
    """

    case: str
    failed: bool = False
    classes: Annotated[list[Target], at_most(MOST_TARGETS)] = []
    predicted: Annotated[dict[Target, Probability], at_most(MOST_TARGETS)] = {}


class ClassRows(TaskRows):
    """`classes`: all, in the order of the net's outputs."""

    task: Literal["classification"] = "classification"
    labels: Labels = "exclusive"
    classes: Annotated[list[Target], at_most(MOST_TARGETS)]
    cases: list[ClassRow]

    def scores(self) -> SplitScores:
        scored = [case for case in self.cases if not case.failed]
        failed = len(self.cases) - len(scored)
        brier, histograms = {}, {}
        for name in self.classes:
            is_it = [name in case.classes for case in scored]
            predicted = [case.predicted[name] for case in scored]
            squares = [(one - true) ** 2 for one, true in zip(predicted, is_it, strict=True)]
            brier[name] = sum_scores(squares, reference_empty=[False] * len(squares), failed=failed)
            histograms[name] = bin_scores(predicted, is_it)
        return SplitScores(
            cases=len(self.cases),
            metrics={"brier": brier},
            histograms=histograms,
            confusion={} if self.labels == "multi" else self._confuse(scored),
        )

    def _confuse(self, scored: Sequence[ClassRow]) -> dict[str, dict[str, int]]:
        """The class with the largest probability is the predicted one, the first of equals."""
        found: dict[str, dict[str, int]] = {}
        for case in scored:
            predicted = max(self.classes, key=lambda name: case.predicted[name])
            row = found.setdefault(case.classes[0], {})
            row[predicted] = row.get(predicted, 0) + 1
        return found


@dataclass(frozen=True)
class ClassificationReader(ScoreReader):
    """AUC of each class against the rest, its mean over classes, and what the confusion matrix says."""

    metric: ClassVar[str] = "auc"
    metrics: ClassVar[tuple[str, ...]] = (
        "auc", "accuracy", "balanced-accuracy", "sensitivity", "specificity", "kappa", "brier", "ece",
    )  # fmt: skip
    target: ClassVar[str] = "class"
    plural: ClassVar[str] = "classes"
    no_score: ClassVar[str] = "- (no two kinds of cases, or too few to tell)"

    def headline_score(self, scores: SplitScores) -> float | None:
        """Mean AUC over the classes that have one."""
        return _mean(self.by_target(scores).values())

    def by_target(self, scores: SplitScores) -> dict[str, float | None]:
        told = scores.histograms
        return {name: told[name].auc if name in told else None for name in self.targets}

    def read_others(self, scores: SplitScores) -> tuple[MetricReading, ...]:
        told = scores.histograms
        sensitivity = {name: self._sensitivity(scores, name) for name in self.targets}
        specificity = {name: self._specificity(scores, name) for name in self.targets}
        brier = scores.by_target("brier")
        positives = {name: told[name].positives if name in told else 0 for name in self.targets}
        negatives = {name: told[name].negatives if name in told else 0 for name in self.targets}
        if scores.confusion:
            rows = {name: sum(scores.confusion.get(name, {}).values()) for name in self.targets}
            positives, negatives = rows, {name: sum(rows.values()) - one for name, one in rows.items()}
        both = {name: positives[name] + negatives[name] for name in self.targets}
        balanced = _mean(sensitivity.values()) if scores.confusion else _mean(
            (one + other) / 2
            for name in self.targets
            if (one := sensitivity[name]) is not None and (other := specificity[name]) is not None
        )  # fmt: skip
        found = (
            self._whole("accuracy", self._accuracy(scores)),
            self._whole("balanced-accuracy", balanced),
            self._each("sensitivity", sensitivity, positives),
            self._each("specificity", specificity, negatives),
            self._whole("kappa", self._kappa(scores)),
            self._each("brier", {name: brier.get(name) for name in self.targets}, both),
            self._each("ece", {n: told[n].calibration_error if n in told else None for n in self.targets}, both),
        )
        return tuple(one for one in found if one.mean is not None)

    def read_briefly(self, scores: SplitScores) -> tuple[MetricReading, ...]:
        return tuple(one for one in self.read_others(scores) if one.name == "balanced-accuracy")

    def other_tables(self, scores: SplitScores) -> tuple[ScoreTable, ...]:
        """Everything that is no mean over classes, and the confusion matrix."""
        others = self.read_others(scores)
        whole = tuple((one.metric.title, one.mean) for one in others if not one.targets)
        by_class = [one for one in others if one.targets]
        rows = tuple((name, *(one.targets.get(name) for one in by_class)) for name in self.targets)
        tables = [
            ScoreTable("Over all test cases", ("", "value"), whole),
            ScoreTable(
                "By class over all test cases", (self.target, *(one.metric.title for one in by_class)),
                rows if by_class else (),
            ),
            self._confusion_table(scores),
        ]  # fmt: skip
        return tuple(one for one in tables if one.rows)

    def draw_curves(self, scores: SplitScores) -> tuple[ScoreCurve, ...]:
        lines = {name: scores.histograms[name].roc for name in self.targets if name in scores.histograms}
        return (
            ScoreCurve("ROC over all test cases, each class against the rest", "1 - specificity", "sensitivity", lines),
        )

    def detail_table(self, scores: SplitScores) -> ScoreTable:
        rows = tuple(
            (name, one.positives, one.negatives, one.auc, one.auc_error)
            for name in self.targets
            if (one := scores.histograms.get(name)) is not None
        )
        head = (self.target, "of the class", "others", "AUC", "right to ±")
        return ScoreTable("AUC by class over all test cases, each class against the rest", head, rows)

    def asks_for(self, scores: SplitScores) -> bool:
        names = set(self.targets)
        predicted = {name for row in scores.confusion.values() for name in row}
        told = scores.histograms.keys() | scores.confusion.keys() | predicted
        told |= {name for targets in scores.metrics.values() for name in targets}
        return scores.metrics.keys() <= {"brier"} and told <= names and not scores.rows

    def _confusion_table(self, scores: SplitScores) -> ScoreTable:
        """A row that was withheld is empty."""
        rows: list[tuple[str | int | float | None, ...]] = []
        for name in self.targets if scores.confusion else ():
            row = scores.confusion.get(name)
            rows.append((name, *(None if row is None else row.get(predicted, 0) for predicted in self.targets)))
        head = ("true class", *(f"predicted {name}" for name in self.targets))
        return ScoreTable("Confusion matrix over all test cases", head, tuple(rows))

    def _sensitivity(self, scores: SplitScores, name: str) -> float | None:
        if scores.confusion:
            row = scores.confusion.get(name)
            return row.get(name, 0) / total if row and (total := sum(row.values())) else None
        return scores.histograms[name].sensitivity if name in scores.histograms else None

    def _specificity(self, scores: SplitScores, name: str) -> float | None:
        if scores.confusion:
            others = [row for true, row in scores.confusion.items() if true != name]
            total = sum(sum(row.values()) for row in others)
            return 1 - sum(row.get(name, 0) for row in others) / total if total else None
        return scores.histograms[name].specificity if name in scores.histograms else None

    def _accuracy(self, scores: SplitScores) -> float | None:
        if scores.confusion:
            total = sum(sum(row.values()) for row in scores.confusion.values())
            return sum(row.get(name, 0) for name, row in scores.confusion.items()) / total if total else None
        cases = sum(one.positives + one.negatives for one in scores.histograms.values())
        return sum(one.right for one in scores.histograms.values()) / cases if cases else None

    def _kappa(self, scores: SplitScores) -> float | None:
        """Cohen's kappa with quadratic weights (Cohen 1968), by the order of the classes; of two, the plain one."""
        places = {name: place for place, name in enumerate(self.targets)}
        cells = [
            (places[true], places[predicted], count)
            for true, row in scores.confusion.items()
            for predicted, count in row.items()
        ]
        total = sum(count for _, _, count in cells)
        seen = sum((one - other) ** 2 * count for one, other, count in cells)
        by_chance = sum((one - other) ** 2 * n * m for one, _, n in cells for _, other, m in cells)
        return 1 - seen * total / by_chance if by_chance else None

    def _whole(self, name: str, value: float | None) -> MetricReading:
        return MetricReading(name, value, {}, {}, {})

    def _each(self, name: str, values: Mapping[str, float | None], n: Mapping[str, int]) -> MetricReading:
        return MetricReading(name, _mean(values.values()), values, n, {})


class ClassificationTask(Task):
    """Classes are names; each site says which of its own words means which class."""

    kind: Literal["classification"]
    classes: Annotated[tuple[Concept, ...], at_most(MOST_TARGETS)] = Field(min_length=1)
    labels: Labels = "exclusive"

    came_with: ClassVar[int] = 2
    truth: ClassVar[Literal["map", "table"]] = "table"
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy", "focal")
    rows: ClassVar[type[TaskRows]] = ClassRows
    reader_type: ClassVar[type[ScoreReader]] = ClassificationReader

    @classmethod
    def choose_defaults(cls, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Kappa needs classes that exclude each other, and is asked for by name."""
        found = cls.defaults_for_wholes(content)
        asked = [name for name in cls.reader_type.metrics if name != "kappa"]
        return {**found, "evaluation": {**found["evaluation"], "metrics": asked}}

    @property
    def targets(self) -> tuple[str, ...]:
        """The classes, in the file's order."""
        return self.classes

    @property
    def out_channels(self) -> int:
        """One a class; of ordered classes one fewer."""
        return len(self.classes) - (self.labels == "ordinal")

    @property
    def reading(self) -> Reading:
        return "softmax" if self.labels == "exclusive" else "sigmoid"

    @model_validator(mode="after")
    def _classes_make_sense(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("name each class once")
        if len(self.classes) == 1 and self.labels != "multi":
            raise ValueError(f'classes: {self.labels} classes are two at least; a single one needs labels = "multi"')
        return self

    def encode_value(self, words: Sequence[str]) -> tuple[float, ...]:
        """1 for each class that the case is of, else 0."""
        named = [word for word in words if word != NONE or NONE in self.classes] if self.labels == "multi" else words
        if strange := [word for word in named if word not in self.classes]:
            raise ValueError(f"{strange[0]!r} is none of {', '.join(self.classes)}")
        if self.labels != "multi" and len(named) != 1:
            raise ValueError(f"{len(named)} classes, and a case has one")
        return tuple(float(name in named) for name in self.classes)

    def rows_of_answers(
        self, split: Split, truths: Sequence[Sequence[float]], answers: Sequence[Sequence[float]]
    ) -> TaskRows:
        """Of each class's probability."""
        rows = [
            ClassRow(
                case=f"{split}-{number}",
                classes=[name for name, is_it in zip(self.classes, true, strict=True) if is_it],
                predicted={name: float(one) for name, one in zip(self.classes, answer, strict=True)},
            )
            for number, (true, answer) in enumerate(zip(truths, answers, strict=True))
        ]
        return ClassRows(split=split, labels=self.labels, classes=list(self.classes), cases=rows)

    def list_lacking(self, words: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in self.classes if name not in words)

    def find_misfit(self, *, loss: LossTable, metrics: Sequence[str], select_by: str) -> str | None:
        """Class weights name the classes."""
        if isinstance(loss.class_weights, dict) and set(loss.class_weights) != set(self.classes):
            return f"training.loss.class_weights: name each of {', '.join(self.classes)}"
        if loss.said & {"class_weights", "label_smoothing"} and self.labels == "ordinal":
            return "training.loss: class_weights and label_smoothing do not go with ordinal classes"
        if "kappa" in metrics and self.labels == "multi":
            return 'evaluation.metrics: "kappa" needs classes that exclude each other'
        return super().find_misfit(loss=loss, metrics=metrics, select_by=select_by)

    def arguments_of(self, loss: str) -> frozenset[str]:
        """Focal loss has a gamma as well."""
        both = frozenset({"class_weights", "label_smoothing"})
        return both | {"gamma"} if loss == "focal" else both

    def describe_outputs(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "labels": self.labels}

    def rehearse_split(self, split: Split, cases: int) -> TaskRows:
        rows = [
            ClassRow(
                case=f"{split}-{n}",
                classes=[self.classes[n % len(self.classes)]],
                predicted=dict.fromkeys(self.classes, 1 / len(self.classes)),
            )
            for n in range(cases)
        ]
        return ClassRows(split=split, labels=self.labels, classes=list(self.classes), cases=rows)


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
