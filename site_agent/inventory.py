"""What a data set holds, for the operator's eyes: `konsil site datasets` and `preflight`. Reads every image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from messages.experiment import Experiment
from site_agent.datasets.config import DatasetConfig

if TYPE_CHECKING:
    from site_agent.datasets.layouts import Layout


@dataclass(frozen=True, slots=True)
class Stock:
    """One data set; `details` name cases and stay at the site."""

    found: int
    used: int
    left_out: dict[str, int]
    details: tuple[str, ...]
    channels: tuple[str, ...]
    concepts: tuple[str, ...]


def take_stock(
    config: DatasetConfig,
    experiment: Experiment | None = None,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Stock:
    """Survey a data set, for an experiment's channels and concepts, or else for those that it has itself.

    Raises:
        DataError: the folder cannot be read, holds no case, or lacks a concept of the experiment.
    """
    from site_agent.datasets import layouts, source  # nibabel: not for the agent's event loop

    layout = layouts.look(config)
    if experiment is None:
        channels, concepts = _common(layout), set(layout.labels.values())
    else:
        channels, concepts = experiment.task.channels, set(experiment.task.concepts)
    survey = source.survey(config, channels, concepts, progress, cache)
    return Stock(
        found=survey.found,
        used=len(survey.cases),
        left_out={str(reason): count for reason, count in survey.left_out.items()},
        details=tuple(f"{one.key}: {one.text} ({one.reason})" for one in survey.details),
        channels=tuple(channels),
        concepts=tuple(sorted(concepts)),
    )


def _common(layout: Layout) -> tuple[str, ...]:
    """The channels that most cases have: a case that lacks one of them is worth a line."""
    if layout.channels:
        return layout.channels
    counted = Counter(name for case in layout.candidates for name in case.images)
    most = max(counted.values(), default=0)
    return tuple(sorted(name for name, count in counted.items() if 2 * count >= most))
