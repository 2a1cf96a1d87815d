"""An experiment's figures as plain rows, a row a round, a site's update, a score: what other tools read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


ROUND_CURVES = {
    "loss/all": "loss",
    "round/training_cases": "training_cases",
    "round/seconds": "seconds",
    "round/bytes_to_sites": "bytes_to_sites",
    "round/bytes_from_sites": "bytes_from_sites",
}
"""Curve → the column of a complete round."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One value of one curve, as trackers of experiments keep them.

    Attributes:
        name: "loss/all", "loss/SITE", "validation/all/METRIC", "test/SITE/METRIC.TARGET", "round/seconds" …
        step: the round; of a score, how many rounds made the model.
        time: seconds since 1970, as the log has it.
    """

    name: str
    step: int
    value: float
    time: float


def list_points(story: ExperimentStory) -> list[CurvePoint]:
    """Every curve's points that stay as they are, in the order of rounds.

    What an open round has so far is left out: scores of a model are still pooled while sites report them. No name is
    the beginning of another one's path, since MLflow keeps a curve as a file.
    """
    began, over = story.started or 0.0, story.over
    closed = {one.number for one in story.round_list if one.state == "complete"}
    times = {one.number: (one.started or began) + (one.seconds or 0.0) for one in story.round_list}
    ended = story.ended or max(times.values(), default=began)
    found: list[tuple[str, int, float | None, float]] = []
    for row in list_rounds(story):
        if (number := row["round"]) in closed:
            found += [(name, number, row[key], times[number]) for name, key in ROUND_CURVES.items()]
    for row in list_updates(story):
        if (number := row["round"]) in closed:
            found.append((f"loss/{row['site']}", number, row["loss"], times[number]))
    for row in list_scores(story):
        step, is_test = row["rounds"] or 0, row["split"] == "test"
        if over or (not is_test and step + 1 in closed):
            figure = ".".join(filter(None, (row["metric"], row["target"])))
            time = ended if is_test else times.get(step, began)
            found.append((f"{row['split']}/{row['site']}/{figure}", step, row["value"], time))
    return [CurvePoint(name, step, float(value), time) for name, step, value, time in found if value is not None]


def list_settings(story: ExperimentStory) -> dict[str, str]:
    """The experiment file's keys as dotted names; nothing where the file is not known."""
    if story.experiment is None:
        return {}
    return flatten_settings(story.experiment.model_dump(mode="json", by_alias=True))


def list_labels(story: ExperimentStory) -> dict[str, str]:
    """What names the experiment and its model: id, state, digests, researcher."""
    told = {
        "experiment": story.id,
        "state": story.phase,
        "digest": story.digest,
        "researcher": story.researcher,
        "model_digest": story.model_digest,
    }
    return {f"konsil.{key}": str(value) for key, value in told.items() if value is not None}


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
