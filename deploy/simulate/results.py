"""What a finished run leaves for the comparison and for programs: one JSON file, written as its last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.outcome import Outcome, outcome_as_plain
from deploy.story.matrix import read_matrix
from deploy.story.summary import statistics_as_plain
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.ground.written.documents import read_json

INNER = ("settings", "curve", "rows", "own_rows", "title")
"""Keys that the comparison reads, and --json does not print."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run, as its file says it."""

    plain: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.plain["seed"])

    @property
    def strategy(self) -> str:
        return str(self.plain["strategy"])

    @property
    def is_complete(self) -> bool:
        """Whether it came to a model."""
        return bool(self.plain["state"] == "complete")

    @property
    def scores(self) -> Mapping[str, Any]:
        """Its test scores ("federated" in the demo's object)."""
        return dict(self.plain[self.plain["metric"]]["federated"])

    @property
    def mean(self) -> float | None:
        """The one number of its model."""
        value = self.scores["mean"]
        return None if value is None else float(value)

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Validation scores: (rounds that made the model, the one number)."""
        return [(int(rounds), float(score)) for rounds, score in self.plain["curve"]]

    @property
    def rows(self) -> Mapping[str, list[Mapping[str, float | None]]]:
        """Site → test scores case by case; a site that shares none is left out."""
        return dict(self.plain["rows"])

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {key: value for key, value in self.plain.items() if key not in INNER}


def make_result(outcome: Outcome, *, threads: int, settings: str) -> RunResult:
    """What of an outcome is kept; `settings` is `digest_settings` of what it ran with."""
    story, reader = outcome.story, outcome.story.reader
    curve = [
        (point.round, score)
        for point in story.validation_curve()
        if (score := reader.headline_score(point.pooled)) is not None
    ]
    matrices = {split: found for split in ("validation", "test") if (found := read_matrix(story, split)) is not None}
    plain = {
        "seed": outcome.experiment.seed,
        "strategy": outcome.experiment.plan.strategy.name,
        "state": story.phase,
        "reason": None if story.reason is None else str(story.reason),
        **outcome_as_plain(outcome),
        **statistics_as_plain(story),
        "model": str(outcome.layout.model) if outcome.model_digest else None,
        "model_digest": outcome.model_digest or None,
        "virtual_seconds": story.seconds,
        "threads": threads,
        "metric": reader.metric,
        "title": reader.title,
        "settings": settings,
        "curve": curve,
        "rows": {site: scores.rows for site, scores in story.test.sites.items() if scores.rows} if story.test else {},
    }
    if matrices:
        plain["cross_site"] = {split: found.as_plain() for split, found in matrices.items()}
    if (tested := matrices.get("test")) is not None:  # by whose model it is, then by site, case by case
        plain["own_rows"] = {
            model: {site: scores.rows for site, scores in row.items() if scores.rows}
            for model, row in tested.cells.items()
        }
    return RunResult(json.loads(json.dumps(plain, default=str)))


def write_result(path: Path, result: RunResult) -> None:
    """Whole or not at all."""
    replace_file(path, json.dumps(result.plain, indent=1).encode())


def read_result(path: Path, settings: str) -> RunResult | None:
    """A run that was finished before; None where there is none.

    Raises:
        RequestError: it ran with other settings.
    """
    if not path.exists():
        return None
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("settings") != settings:
        raise RequestError(
            "a run of other settings lies here",
            where=str(path.parent),
            advice="Choose another place with --out, or remove it",
        )
    return RunResult(plain)


def digest_settings(content: Mapping[str, Any]) -> str:
    """What decides a run's bits, as a short name."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
