"""An experiment's story as plain types, for --json."""

from __future__ import annotations

from typing import Any

from deploy.story.doubts import list_doubts
from deploy.story.parts import RoundStory
from deploy.story.story import ExperimentStory
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader


def scores_as_plain(found: SplitScores | None, reader: ScoreReader) -> dict[str, Any] | None:
    """The score, by target (under the task's word for it), and of how many cases."""
    if found is None:
        return None
    return {
        "mean": reader.headline_score(found),
        reader.plural: reader.by_target(found),
        "cases": found.cases,
        "withheld": found.withheld,
    }


def round_summary(one: RoundStory, reader: ScoreReader) -> dict[str, Any]:
    """One round."""
    return {
        "round": one.number,
        "state": one.state,
        "sites": list(one.sites),
        "contributors": dict(one.contributors),
        "left_out": dict(one.left_out),
        "failures": dict(one.failures),
        "loss": one.loss,
        "validation": scores_as_plain(one.validation, reader),
        "site_validation": {site: scores_as_plain(found, reader) for site, found in one.site_validation.items()},
        "bytes_down": one.bytes_down,
        "bytes_up": one.bytes_up,
        "seconds": one.seconds,
        "model_digest": one.model_digest,
    }


def story_as_plain(story: ExperimentStory) -> dict[str, Any]:
    """The whole story without its rounds' details."""
    test = story.test
    curve = story.validation_curve()
    return {
        "experiment": story.id,
        "state": story.phase,
        "over": story.over,
        "reason": story.reason,
        "researcher": story.researcher,
        "digest": story.digest,
        "started": story.started,
        "ended": story.ended,
        "rounds": {"complete": story.completed_rounds, "planned": story.rounds_planned},
        "sites": {name: {"state": site.state, "reason": site.reason} for name, site in sorted(story.sites.items())},
        "validation": scores_as_plain(curve[-1].pooled, story.reader) if curve else None,
        "test": None
        if test is None
        else {
            "mean": test.mean,
            test.reader.plural: test.by_target,
            "n": test.n,
            "sites": test.site_means,
            "unweighted_mean": test.unweighted_mean,
            "worst": test.worst,
        },
        "contradictions": [one.as_plain() for one in list_doubts(story)],
        "model_digest": story.model_digest,
        "model_round": story.model_round,
        "bytes_down": story.bytes_down,
        "bytes_up": story.bytes_up,
    }
