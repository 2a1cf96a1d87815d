"""Several experiments beside each other: what became of each, and in which settings they differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.story.figures import flatten_settings
from deploy.story.story import ExperimentStory

UNSET = "-"
OWN = ("id",)
"""Keys in which any two experiments differ."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of the experiment file, with each experiment's value, in their order; "-": it does not say."""

    key: str
    values: tuple[str, ...]


def find_differences(stories: Sequence[ExperimentStory]) -> list[Difference]:
    """The keys in which the experiments' files differ, by name."""
    known = [one.experiment for one in stories]
    files = [{} if one is None else flatten_settings(one.model_dump(mode="json", by_alias=True)) for one in known]
    keys = sorted({key for file in files for key in file if key not in OWN})
    found = [Difference(key, tuple(file.get(key, UNSET) for file in files)) for key in keys]
    return [one for one in found if len(set(one.values)) > 1]


def find_incomparable(stories: Sequence[ExperimentStory]) -> list[str]:
    """Why the scores do not compare, in words; nothing where they do."""
    known = [one for one in stories if one.experiment is not None]
    checks: Mapping[str, Any] = {
        "different tasks": lambda one: (one.experiment.task.kind, one.experiment.task.targets),
        "different data sets": lambda one: one.experiment.data.dataset,
        "different splits of the data (data.split, seed)": lambda one: (one.experiment.data.split, one.experiment.seed),
        "different sites were scored": lambda one: () if one.test is None else tuple(sorted(one.test.sites)),
    }
    return [what for what, read in checks.items() if len({repr(read(one)) for one in known}) > 1]


def compare_as_plain(stories: Sequence[ExperimentStory]) -> dict[str, Any]:
    """For --json."""
    return {
        "experiments": [summarise_story(one) for one in stories],
        "differences": {one.key: list(one.values) for one in find_differences(stories)},
        "incomparable": find_incomparable(stories),
    }


def summarise_story(story: ExperimentStory) -> dict[str, Any]:
    """One experiment in a row."""
    test, plan = story.test, None if story.experiment is None else story.experiment.plan
    worst = None if test is None else test.worst
    return {
        "experiment": story.id,
        "state": story.phase,
        "plan": None if plan is None else plan.kind,
        "strategy": None if plan is None else plan.strategy.name,
        "rounds": story.completed_rounds,
        "metric": None if test is None else test.reader.title,
        "test": None if test is None else test.mean,
        "unweighted_mean": None if test is None else test.unweighted_mean,
        "worst_site": None if worst is None else worst[0],
        "worst": None if worst is None else worst[1],
        "test_cases": None if test is None else test.n,
        "seconds": story.seconds,
        "bytes": story.bytes_down + story.bytes_up,
        "model_digest": story.model_digest,
    }
