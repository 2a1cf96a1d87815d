"""An experiment's figures as plain rows, a row a round, a site's update, a score: what other tools read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deploy.story.story import ExperimentStory
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader

Figure = dict[str, Any]
"""Column → text, a number, or None."""


def list_rounds(story: ExperimentStory) -> list[Figure]:
    """Each round; validation is that of the model which the round made, in the experiment's main metric."""
    reader, rows = story.reader, list[Figure]()
    for one in story.round_list:
        point = story.validation_after(one.number)
        scored = None if point is None else point.pooled
        rows.append(
            {
                "round": one.number,
                "state": one.state,
                "contributors": len(one.contributors),
                "training_cases": sum(one.contributors.values()),
                "left_out": ";".join(f"{site}={reason}" for site, reason in sorted(one.left_out.items())),
                "loss": one.loss,
                "validation": None if scored is None else reader.headline_score(scored),
                "seconds": one.seconds,
                "bytes_to_sites": one.bytes_down,
                "bytes_from_sites": one.bytes_up,
                "model_digest": one.model_digest,
            }
        )
    return rows


def list_updates(story: ExperimentStory) -> list[Figure]:
    """Each site's update in each round, with how it stands beside the others'."""
    return [
        {
            "round": one.number,
            "site": site,
            "used": used is not None,
            "cases_used": update.cases_used,
            "epochs": update.epochs,
            "steps": update.steps,
            "loss": one.losses.get(site),
            "seconds": update.seconds,
            "bytes": update.bytes,
            "share": None if check is None else check.share,
            "norm": None if check is None else check.norm,
            "cosine": None if check is None else check.cosine,
            "device": update.platform.device_type,
        }
        for one in story.round_list
        for site, update in sorted(one.updates.items())
        for used in (story.used_in(one.number, site),)
        for check in (story.checks.get(used or one.number, {}).get(site),)
    ]


def list_scores(story: ExperimentStory) -> list[Figure]:
    """Every score, a row a value: of each model that was scored, pooled ("all") and by site, metric and target.

    `rounds`: how many made the model. A withheld split has its number of cases and no value.
    """
    rows, reader = list[Figure](), story.reader
    for point in story.validation_curve():
        for site, found in {"all": point.pooled, **point.sites}.items():
            rows += _score_rows("validation", point.round, site, found, reader)
    test = story.test
    if test is not None:
        for site, found in {"all": test.pooled, **test.sites}.items():
            rows += _score_rows("test", story.model_round, site, found, reader)
    return rows


def _score_rows(split: str, rounds: int | None, site: str, found: SplitScores, reader: ScoreReader) -> Iterator[Figure]:
    start = {"split": split, "rounds": rounds, "site": site, "cases": found.cases}
    if found.withheld:
        yield start | {"metric": "withheld", "target": "", "value": None}
        return
    metric = getattr(reader, "metric", "score")
    told: dict[str, tuple[float | None, Mapping[str, float | None]]]
    told = {metric: (reader.headline_score(found), reader.by_target(found))}
    told |= {one.name: (one.mean, one.targets) for one in reader.read_others(found)}
    for name, (mean, targets) in told.items():
        yield start | {"metric": name, "target": "", "value": mean}
        for target, value in targets.items():
            yield start | {"metric": name, "target": target, "value": value}


def flatten_settings(plain: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """An experiment file's keys as dotted names, each with its value as text."""
    found: dict[str, str] = {}
    for key, value in plain.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found |= flatten_settings(value, f"{name}.")
        elif isinstance(value, list | tuple):
            found[name] = ", ".join(map(str, value))
        elif value is not None:
            found[name] = str(value)
    return found
