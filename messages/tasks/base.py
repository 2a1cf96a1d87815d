"""What every task says of itself without torch: its part of the experiment file, its rows, how its scores read.

A task is two files. The one here says which labels it wants, what the net's outputs are, which losses and metrics go
with it, what a training process tells of each case, and how that pools and reads. The other one,
in `site_agent/training/tasks/`, turns labels into what the net is trained towards, and scores cases.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from messages.ground.settings import Settings
from messages.ground.strictness import StrictModel, at_most
from messages.scores import SplitScores, pool_scores
from messages.tasks.losses import LossTable
from messages.tasks.metrics import METRICS, Metric

Concept = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
Split = Literal["train", "validation", "test"]
Reading = Literal["sigmoid", "softmax", "plain"]
"""How a net's outputs are read."""


class TaskRows(StrictModel):
    """All cases of one split, in the split's keyed order: raw material, which stays at the site.

    A training process tells it to its agent; the agent decides what leaves.
    """

    split: Split

    @abstractmethod
    def scores(self) -> SplitScores:
        """As it may be reported, rows included: `SplitScores.for_sharing` takes away what the policy forbids."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A table of a report; a float is a score, None stands for nothing."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class ScoreCurve:
    """A chart of a report. `lines`: name → (x, y), each from 0 to 1."""

    caption: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class MetricReading:
    """One metric beside the main one, read off scores.

    Attributes:
        mean: over targets; None where nothing has a value.
        targets: mean over cases of each target; none where it is one number. n: how many cases have a value.
        lacking: cases that the main metric scores, and that have no value of this one (`Metric.lacks`).
    """

    name: str
    mean: float | None
    targets: Mapping[str, float | None]
    n: Mapping[str, int]
    lacking: Mapping[str, int]

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    def format_value(self, value: float | None) -> str:
        """A value of it, or a dash."""
        return "-" if value is None else f"{value:.{self.metric.digits}f}"

    @property
    def words(self) -> str:
        """ "12.3 (WT 10.1 of 5, TC 14.5 of 4; only one of the two is empty: TC 1)"."""
        if not self.targets:
            return self.format_value(self.mean)
        parts = ", ".join(f"{name} {self.format_value(mean)} of {self.n[name]}" for name, mean in self.targets.items())
        lacks = ", ".join(f"{name} {count}" for name, count in self.lacking.items() if count)
        return f"{self.format_value(self.mean)} ({parts}{f'; {self.metric.lacks}: {lacks}' if lacks else ''})"


@dataclass(frozen=True)
class ScoreReader:
    """How the scores of an experiment pool and read, for the coordinator, `watch`, reports and metrics.

    Attributes:
        targets: what is scored apart (regions, classes, quantities), in the order of the net's outputs.
        metric: the task's main metric, by which a model is chosen. metrics: all that a site may tell.
        title: how the main metric is called in tables and curves.
        target, plural: how a target is called.
        most: where a curve's axis ends; None: nowhere.
        higher_is_better: which of two models is chosen.
    """

    targets: tuple[str, ...] = ()
    metric: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    target: ClassVar[str] = "target"
    plural: ClassVar[str] = "targets"
    higher_is_better: ClassVar[bool] = True
    no_score: ClassVar[str] = "-"
    """What a line of words says of scores without a value of the main metric."""

    @property
    def title(self) -> str:
        return METRICS[self.metric].title

    @property
    def most(self) -> float | None:
        return METRICS[self.metric].most

    @property
    def mean_title(self) -> str:
        """How the one number of a model comes about."""
        return f"mean over {self.plural}"

    def pool_reports(self, reports: Iterable[SplitScores]) -> SplitScores:
        """All cases of all sites together."""
        return pool_scores(reports)

    def headline_score(self, scores: SplitScores) -> float | None:
        """The one number of a model on a split; None where nothing was scored."""
        return scores.mean_score(self.metric)

    def by_target(self, scores: SplitScores) -> dict[str, float | None]:
        """The main metric of each target."""
        return scores.by_target(self.metric)

    def read_others(self, scores: SplitScores) -> tuple[MetricReading, ...]:
        """Every metric that is told beside the main one."""
        main = scores.metrics.get(self.metric, {})
        found = []
        for name in self.metrics:
            told = scores.metrics.get(name, {})
            if name == self.metric or not told:
                continue
            known = {target: told[target] for target in self.targets if target in told}
            lacking = {
                target: max(0, main[target].n + main[target].withheld - score.n - score.withheld)
                for target, score in known.items()
                if target in main
            }
            means = {target: score.mean for target, score in known.items()}
            counts = {target: score.n for target, score in known.items()}
            found.append(MetricReading(name, scores.mean_score(name), means, counts, lacking))
        return tuple(found)

    def read_briefly(self, scores: SplitScores) -> tuple[MetricReading, ...]:
        """Those of `read_others` that go into a line of words."""
        return self.read_others(scores)

    def other_tables(self, scores: SplitScores) -> tuple[ScoreTable, ...]:
        """What the means of the other metrics are made of, a table each."""
        made = []
        for one in self.read_others(scores):
            told = scores.metrics[one.name]
            rows = tuple(
                (
                    target,
                    one.n[target],
                    one.format_value(mean),
                    one.format_value(told[target].std),
                    one.lacking.get(target, 0),
                    told[target].failed,
                )
                for target, mean in one.targets.items()
            )
            head = (self.target, "n", "mean", "SD", f"left out: {one.metric.lacks}", "failed")
            made.append(ScoreTable(f"{one.metric.title} by {self.target} over all test cases", head, rows))
        return tuple(made)

    def draw_curves(self, scores: SplitScores) -> tuple[ScoreCurve, ...]:
        """What else of the test cases is drawn."""
        return ()

    def rank_score(self, score: float) -> float:
        """Larger for the better of two models."""
        return score if self.higher_is_better else -score

    def worst_site(self, by_site: Mapping[str, float]) -> tuple[str, float] | None:
        """The site with the worst score, the first of equals by name; None where there is none."""
        return min(by_site.items(), key=lambda item: self.rank_score(item[1])) if by_site else None

    def asks_for(self, scores: SplitScores) -> bool:
        """Whether scores hold nothing but what the experiment asks for: other names would be a site's own words."""
        told = {name for targets in scores.metrics.values() for name in targets}
        told |= {name for row in scores.rows or () for name in row}
        return scores.metrics.keys() <= set(self.metrics) and told <= set(self.targets)

    def detail_table(self, scores: SplitScores) -> ScoreTable:
        """What the means are made of."""
        told = scores.metrics.get(self.metric, {})
        rows = [
            (name, score.n, score.mean, score.std, score.failed)
            for name in self.targets
            if (score := told.get(name)) is not None
        ]
        caption = f"{self.title} by {self.target} over all test cases"
        return ScoreTable(caption, (self.target, "n", "mean", "SD", "failed"), tuple(rows))


@dataclass(frozen=True)
class UnknownReader(ScoreReader):
    """Reads scores of an experiment whose file is not known: the first metric that is told."""

    metric: ClassVar[str] = "score"
    metrics: ClassVar[tuple[str, ...]] = ()

    @property
    def title(self) -> str:
        return "score"

    @property
    def most(self) -> float | None:
        return None

    def headline_score(self, scores: SplitScores) -> float | None:
        first = next(iter(scores.metrics), None)
        return None if first is None else scores.mean_score(first)

    def by_target(self, scores: SplitScores) -> dict[str, float | None]:
        first = next(iter(scores.metrics), None)
        return {} if first is None else scores.by_target(first)

    def detail_table(self, scores: SplitScores) -> ScoreTable:
        return ScoreTable("", (), ())


class Task(Settings):
    """`[task]` of an experiment file: what the net is to learn. A subclass a task, each in its file.

    Attributes:
        channels: the images of a case, in the order of the net's inputs.
    """

    kind: str
    channels: Annotated[tuple[Concept, ...], at_most(16)] = Field(min_length=1)

    kinds: ClassVar[dict[str, type[Task]]] = {}
    """Every task by its `kind`; `registry` fills it."""
    came_with: ClassVar[int] = 1
    """The form of experiment files with which the task came (`messages.forms`); 0.1 knew segmentation alone."""
    losses: ClassVar[tuple[str, ...]]
    """Words that `training.loss` may have."""
    truth: ClassVar[Literal["map", "table"]] = "map"
    """What each case has beside its images: a label map, or a value in a table. With a value the net sees whole images,
    brought to `preprocessing.size`, and gives one answer for each."""
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Section → key → what a file of this task means where it says nothing, instead of the section's own default."""
    rows: ClassVar[type[TaskRows]]
    reader_type: ClassVar[type[ScoreReader]]

    @classmethod
    def choose_defaults(cls, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """`defaults` of a file with this content, a table a section, not yet checked."""
        return cls.defaults

    @classmethod
    def defaults_for_wholes(cls, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Of a net that sees whole images: `preprocessing.size` is what other tasks call a patch. The first loss, all
        metrics, the model that is best by the main one."""
        section = content.get("preprocessing")
        size = section.get("size") if isinstance(section, dict) else None
        own = cls.reader_type
        return {
            "training": {"loss": cls.losses[0]} | ({} if size is None else {"patch": size}),
            "evaluation": {"metrics": list(own.metrics), "select_by": select_word(own.metric)},
        }

    @property
    def concepts(self) -> tuple[str, ...]:
        """Concepts that a site's label maps must name, sorted; none where it learns from something else."""
        return ()

    @property
    @abstractmethod
    def targets(self) -> tuple[str, ...]:
        """Names of what is scored, in the order of the net's outputs."""
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        """Outputs of the net."""
        return len(self.targets)

    @property
    def reader(self) -> ScoreReader:
        """How its scores read."""
        return self.reader_type(self.targets)

    def encode_value(self, words: Sequence[str]) -> tuple[float, ...]:
        """A case's value in the table, as numbers that the net is trained towards.

        Args:
            words: what stands in the table, in the words of experiments.

        Raises:
            ValueError: none of this task; says what stands there, and what could.
        """
        raise NotImplementedError

    def rows_of_answers(
        self, split: Split, truths: Sequence[Sequence[float]], answers: Sequence[Sequence[float]]
    ) -> TaskRows:
        """Rows of cases by what a table says of them (`encode_value`) and what a model answers (`targets`).

        Raises:
            ValueError: an answer that is none of this task.
        """
        raise NotImplementedError

    def invent_word(self, number: int) -> str:
        """What a table could say of an invented case."""
        return self.targets[number % len(self.targets)]

    def list_lacking(self, words: Collection[str]) -> tuple[str, ...]:
        """Which of its classes no case has, of a site whose table says these words."""
        return ()

    def find_misfit(self, *, loss: LossTable, metrics: Sequence[str], select_by: str) -> str | None:
        """Why another section of the file does not go with the task; None where all do."""
        own = self.reader_type
        if loss.name not in self.losses:
            return f"training.loss: {self.kind} has {_quote_words(self.losses)}, not {loss.name!r}"
        if strange := sorted(loss.said - self.arguments_of(loss.name)):
            return f"training.loss: {loss.name} takes no {strange[0]}"
        if strange := [name for name in metrics if name not in own.metrics]:
            return f"evaluation.metrics: {self.kind} has {_quote_words(own.metrics)}, not {strange[0]!r}"
        if select_by not in (select_word(own.metric), "last"):
            return f"evaluation.select_by: {self.kind} has {_quote_words((select_word(own.metric), 'last'))}"
        return None

    @property
    def reading(self) -> Reading:
        """How the net's outputs are read, and so how those of several nets are combined: as probabilities, by a sigmoid
        each or by a softmax over those that exclude each other; or plainly, as numbers."""
        return "plain"

    def arguments_of(self, loss: str) -> frozenset[str]:
        """What a table under `training.loss` may say beside the name of a loss."""
        return frozenset()

    def describe_outputs(self) -> dict[str, Any]:
        """What a user of the exported model needs to read its outputs, as plain types."""
        return {"targets": list(self.targets)}

    @abstractmethod
    def rehearse_split(self, split: Split, cases: int) -> TaskRows:
        """Rows of a trainer that trains nothing."""
        raise NotImplementedError


def select_word(metric: str) -> str:
    """What `evaluation.select_by` says for the model that is best by a metric."""
    return f"validation.{metric}.mean"


def _quote_words(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
