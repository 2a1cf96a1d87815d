"""Which tasks exist, and the types of fields that hold what one of them decides.

What is open to a task elsewhere in an experiment file (a loss, a metric) is a word of one of them;
`Task.find_misfit` says whether it is a word of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

from messages.tasks.base import ScoreReader, Task, TaskRows, UnknownReader, select_word
from messages.tasks.classification import ClassificationTask
from messages.tasks.losses import LossTable
from messages.tasks.regression import RegressionTask
from messages.tasks.segmentation import SegmentationTask

TASKS: dict[str, type[Task]] = Task.kinds
TASKS |= {"segmentation": SegmentationTask, "classification": ClassificationTask, "regression": RegressionTask}
"""By `task.kind`. A new task is a line here and one in `site_agent.training.tasks.registry`, beside its two files."""

UNKNOWN = UnknownReader()
"""Reads the scores of an experiment whose file is not known."""


def reader_of(task: Task | None) -> ScoreReader:
    """How the scores of an experiment read; for None: as well as can be."""
    return UNKNOWN if task is None else task.reader


def with_defaults(content: Any) -> Any:
    """An experiment's plain content, with what its task means by keys that it leaves out."""
    task = content.get("task") if isinstance(content, dict) else None
    kind = task.get("kind") if isinstance(task, dict) else None
    defaults: Mapping[str, Mapping[str, Any]] = {}
    if isinstance(task, dict) and isinstance(kind, str) and kind in TASKS:
        defaults = TASKS[kind].choose_defaults(content)
    for section, keys in defaults.items():
        said = content.get(section, {})
        if isinstance(said, dict):
            content = {**content, section: {**keys, **said}}
    return content


def _read_task(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if len(TASKS) > 1 and "kind" in value and not (isinstance(kind, str) and kind in TASKS):
        known = {"expected": _join_with_or(list(TASKS))}
        details = InitErrorDetails(type="literal_error", loc=("kind",), input=kind, ctx=known)
        raise ValidationError.from_exception_data("Task", [details])
    chosen = TASKS.get(kind, SegmentationTask) if isinstance(kind, str) else SegmentationTask
    return chosen.model_validate(value)


def _read_rows(value: Any) -> Any:
    """Rows name their task, but those of segmentation: trainers of 0.1 name none."""
    if not isinstance(value, dict):
        return value
    kind = value.get("task")
    chosen = TASKS.get(kind, SegmentationTask) if isinstance(kind, str) else SegmentationTask
    return chosen.rows.model_validate(value)


def _read_loss(value: Any) -> Any:
    return LossTable.model_validate(value) if isinstance(value, dict) else _check_word(value, known_losses())


def _word_of(words: Callable[[], Sequence[str]]) -> BeforeValidator:
    return BeforeValidator(lambda value: _check_word(value, words()))


def _check_word(value: Any, words: Sequence[str]) -> Any:
    if not isinstance(value, LossTable) and (not isinstance(value, str) or value not in words):
        raise PydanticKnownError("literal_error", {"expected": _join_with_or(words)})
    return value


def _join_with_or(words: Sequence[str]) -> str:
    quoted = [repr(word) for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def known_losses() -> list[str]:
    """Of all tasks."""
    return list(dict.fromkeys(loss for task in TASKS.values() for loss in task.losses))


def known_metrics() -> list[str]:
    """Of all tasks."""
    return list(dict.fromkeys(metric for task in TASKS.values() for metric in task.reader_type.metrics))


def _known_selections() -> list[str]:
    return [*dict.fromkeys(select_word(task.reader_type.metric) for task in TASKS.values()), "last"]


def _not_longer_than_known(value: Any) -> Any:
    most = len(known_metrics())
    if isinstance(value, dict | list | tuple) and len(value) > most:
        raise PydanticCustomError(
            "too_long", "at most {most} entries, not {found}", {"most": most, "found": len(value)}
        )
    return value


AnyTask = SerializeAsAny[Annotated[Task, BeforeValidator(_read_task)]]
AnyRows = SerializeAsAny[Annotated[TaskRows, BeforeValidator(_read_rows)]]
AnyLoss = Annotated[str | LossTable, BeforeValidator(_read_loss)]
MetricWords = Annotated[tuple[Annotated[str, _word_of(known_metrics)], ...], BeforeValidator(_not_longer_than_known)]
SelectionWord = Annotated[str, _word_of(_known_selections)]
