"""Where a site's scores contradict the others', model by model of an experiment (`messages.contradictions`); pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.story.story import ExperimentStory
from messages.contradictions import Contradiction, Persistent, find_contradictions


@dataclass(frozen=True, slots=True)
class Doubt:
    """A contradiction, and of which model and split. `round`: rounds that made the model; None: the model yielded."""

    split: str
    round: int | None
    found: Contradiction

    def describe(self, title: str) -> str:
        """One line; `title`: of the metric."""
        which = "test" if self.round is None else f"validation, model of round {self.round}"
        return f"{self.found.describe(title)} ({which})"

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        found = self.found
        return {
            "site": found.site,
            "target": found.target,
            "split": self.split,
            "round": self.round,
            "mean": found.mean,
            "n": found.n,
            "others": found.others,
        }


def list_doubts(story: ExperimentStory) -> list[Doubt]:
    """Validation scores: where two models show it, once a site and target. Test scores: at once. Where each site has a
    model of its own, only those of the one model that all of them score are held against each other.

    A model counts once its round is complete: before, the scores of some sites are still to come.
    """
    persistent = Persistent()
    shared = story.experiment is None or story.experiment.plan.shares_model
    doubts = [
        Doubt("validation", point.round, found)
        for point in (story.validation_curve() if shared else ())
        if story.round_or_new(point.round + 1).state == "complete" or point.round == story.rounds_planned
        for found in persistent.take_news(find_contradictions(point.sites, story.reader))
    ]
    if story.test is not None:
        doubts += [Doubt("test", None, found) for found in find_contradictions(story.test.sites, story.reader)]
    return doubts
