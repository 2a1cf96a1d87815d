"""An experiment's story as plain types, for --json."""

from __future__ import annotations

from typing import Any

from deploy.story.doubts import list_doubts
from deploy.story.matrix import read_matrix
from deploy.story.parts import RoundStory, ValidationPoint
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
        "metrics": metrics_as_plain(found, reader),
        **({"confusion": found.confusion} if found.confusion else {}),
    }


def metrics_as_plain(found: SplitScores, reader: ScoreReader) -> dict[str, Any]:
    """Each metric beside the main one: mean, by target, of how many cases, and how many have no value of it."""
    return {
        one.name: {
            "mean": one.mean,
            reader.plural: dict(one.targets),
            "n": dict(one.n),
            "lacking": dict(one.lacking),
        }
        for one in reader.read_others(found)
    }


def round_summary(one: RoundStory, story: ExperimentStory) -> dict[str, Any]:
    """One round. Scores are those of the model that it made: None until a later round, or the evaluation, has them."""
    reader, point = story.reader, story.validation_after(one.number)
    return {
        "round": one.number,
        "state": one.state,
        "sites": list(one.sites),
        "contributors": dict(one.contributors),
        "left_out": dict(one.left_out),
        **({"staleness": dict(one.staleness)} if one.staleness else {}),
        "failures": dict(one.failures),
        "updates": {site: check.as_plain() for site, check in story.checks.get(one.number, {}).items()},
        "loss": one.loss,
        **({} if one.exchange is None else _secure_as_plain(one)),
        **point_as_plain(point, reader),
        "bytes_down": one.bytes_down,
        "bytes_up": one.bytes_up,
        "seconds": one.seconds,
        "model_digest": one.model_digest,
    }


def _secure_as_plain(one: RoundStory) -> dict[str, Any]:
    """What is told of a secure round beside: nothing of a single site."""
    assert one.exchange is not None  # noqa: S101 (for mypy: who asks has looked)
    pooled = None if one.pooled is None else one.pooled.model_dump(mode="json")
    step = one.exchange.step if one.state == "open" else None
    return {"pooled_only": True, "step": step, "try": one.exchange.tried, "pooled": pooled, "void": one.void}


def point_as_plain(point: ValidationPoint | None, reader: ScoreReader) -> dict[str, Any]:
    """Validation scores of one model, pooled and by site."""
    sites = {} if point is None else point.sites
    return {
        "validation": scores_as_plain(None if point is None else point.pooled, reader),
        "site_validation": {site: scores_as_plain(found, reader) for site, found in sites.items()},
    }


def waiting_as_plain(story: ExperimentStory) -> dict[str, Any] | None:
    """Whom the open step waits for, why, and until when."""
    found = story.waiting
    return None if found is None else {"for": found.what, "sites": dict(found.sites), "until": found.until}


def statistics_as_plain(story: ExperimentStory) -> dict[str, Any]:
    """Statistics of the training cases, pooled and as each site told them; nothing where none were asked for."""
    if story.statistics is None:
        return {}
    pooled = story.statistics.pooled
    plain = {} if pooled is None else pooled.model_dump(mode="json")
    return {
        "configuration": plain.pop("configuration", None),
        "statistics": {
            **plain,
            "sites": {site: one.model_dump(mode="json") for site, one in sorted(story.statistics.told.items())},
            "failures": dict(story.statistics.failures),
        },
    }


def story_as_plain(story: ExperimentStory) -> dict[str, Any]:
    """The whole story without its rounds' details."""
    test = story.test
    point = story.latest_point
    named = None if story.experiment is None else story.experiment.supersedes
    matrices = {split: found.as_plain() for split in ("validation", "test") if (found := read_matrix(story, split))}
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
        **statistics_as_plain(story),
        **({} if named is None else {"supersedes": named.model_dump(mode="json")}),
        **({"pooled_only": True} if story.is_secure else {}),
        "sites": {name: {"state": site.state, "reason": site.reason} for name, site in sorted(story.sites.items())},
        "validation": None if point is None else scores_as_plain(point.pooled, story.reader),
        "validation_round": None if point is None else point.round,
        "test": None
        if test is None
        else {
            "mean": test.mean,
            test.reader.plural: test.by_target,
            "n": test.n,
            "withheld": test.withheld,
            "sites": test.site_means,
            "unweighted_mean": test.unweighted_mean,
            "worst": test.worst,
            "metrics": metrics_as_plain(test.pooled, test.reader),
        },
        **({"cross_site": matrices} if matrices else {}),
        "contradictions": [one.as_plain() for one in list_doubts(story)],
        "model_digest": story.model_digest,
        "model_round": story.model_round,
        "bytes_down": story.bytes_down,
        "bytes_up": story.bytes_up,
    }
