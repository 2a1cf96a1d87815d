"""What the demo says at its end: a table for a person, one JSON object for a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.compare import Comparison
from deploy.demo.layout import DemoLayout
from deploy.report.html import format_duration, format_number
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment

LAST = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo leaves."""

    experiment: Experiment
    story: ExperimentStory
    comparison: Comparison
    layout: DemoLayout
    images: Mapping[str, str]
    """Site → where its images came from, in words."""
    log: Path
    model_digest: str
    seconds: float


def last_validation(story: ExperimentStory, last: int = LAST) -> float | None:
    """Mean of the last few validation scores of the global model: no lucky round."""
    means = [
        mean for point in story.validation_curve() if (mean := story.reader.headline_score(point.pooled)) is not None
    ]
    return sum(means[-last:]) / len(means[-last:]) if means else None


def outcome_as_plain(outcome: Outcome) -> dict[str, Any]:
    """The object that --json prints."""
    story, comparison = outcome.story, outcome.comparison
    test, reader = story.test, story.reader
    scores: dict[str, Any] = {
        "federated": {
            "mean": test.mean if test else None,
            reader.plural: test.by_target if test else {},
            "n": test.n if test else 0,
            "sites": test.site_means if test else {},
            "unweighted_mean": test.unweighted_mean if test else None,
            "worst_site": test.worst[0] if test and test.worst else None,
            "last_three_validation_mean": last_validation(story),
        }
    }
    if (pooled := comparison.pooled) is not None:
        whole = pooled.pool_scores(reader)
        mean = reader.headline_score(whole)
        scores["pooled"] = {"mean": mean, reader.plural: reader.by_target(whole), "n": whole.cases}
        scores["ratio"] = test.mean / mean if test and test.mean is not None and mean else None
    if comparison.alone is not None:
        scores["alone"] = {"mean": comparison.alone}
        if (gain := comparison.gain) is not None:
            scores["alone"]["gain"] = {"mean": gain.mean, "low": gain.low, "high": gain.high, "n": gain.n}
    return {
        "experiment": story.id,
        "sites": list(outcome.experiment.sites),
        "images": dict(outcome.images),
        "rounds": story.completed_rounds,
        reader.metric: scores,
        "model": str(outcome.layout.model),
        "model_digest": outcome.model_digest,
        "model_round": story.model_round,
        "report": str(outcome.layout.report),
        "log": str(outcome.log),
        "bytes_down": story.bytes_down,
        "bytes_up": story.bytes_up,
        "seconds": round(outcome.seconds, 1),
    }


def draw_table(outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    """Test scores by target for each site and overall; the pooled model's mean beside it."""
    story, pooled = outcome.story, outcome.comparison.pooled
    test, reader = story.test, story.reader
    head = [f"test {reader.title}", *reader.targets, "mean", "n", *(["pooled"] if pooled else [])]
    rows: list[list[str]] = []
    if test is None:
        return head, rows
    for name, scores in [*sorted(test.sites.items()), ("overall", test.pooled)]:
        found = reader.by_target(scores)
        values = (*(found.get(target) for target in reader.targets), reader.headline_score(scores))
        row = [name, *map(format_number, values), str(scores.cases)]
        if pooled:
            beside = pooled.pool_scores(reader) if name == "overall" else pooled.sites.get(name)
            row.append(format_number(reader.headline_score(beside) if beside else None))
        rows.append(row)
    return head, rows


def closing_lines(outcome: Outcome) -> list[str]:
    """The lines below the table."""
    story, comparison, layout = outcome.story, outcome.comparison, outcome.layout
    test, pooled = story.test, comparison.pooled
    lines = []
    if test is not None and test.worst is not None:
        lines.append(
            f"mean over sites {format_number(test.unweighted_mean)}, "
            f"worst site {test.worst[0]} ({format_number(test.worst[1])}); "
            f"validation, mean of the last {LAST}: {format_number(last_validation(story))}"
        )
    beside = pooled.score(story.reader) if pooled is not None else None
    if test is not None and test.mean is not None and beside:
        lines.append(f"federated {test.mean:.4f}, pooled {beside:.4f}: ratio {test.mean / beside:.4f}")
    if comparison.alone is not None:
        lines.append(f"one site alone, mean of the single-site models: {comparison.alone:.4f}")
    if (gain := comparison.gain) is not None:
        lines.append(
            f"paired gain over the mean single-site model: {gain.mean:+.4f} "
            f"(95 % interval {gain.low:+.4f} to {gain.high:+.4f}, n = {gain.n})"
        )
    return [
        *lines,
        "",
        f"report   {layout.report}",
        f"model    {layout.model}  (digest {outcome.model_digest[:16]})",
        f"log      {outcome.log}",
        f"replay   konsil audit replay {story.id} --journal {layout.coordinator}",
        f"took     {format_duration(outcome.seconds)}",
    ]
