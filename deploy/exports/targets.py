"""Where figures go, once or as they come: a target takes the story as it is and writes what is new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from deploy.exports.event_files import EventFile
from deploy.exports.mlflow_store import MlflowRun
from deploy.report.sheets import write_sheets
from deploy.story.story import ExperimentStory
from messages.ground.errors import RequestError

EVERY = 5.0
"""Seconds between two writings while an experiment is followed."""


class Target(Protocol):
    """One tool's files."""

    def take_story(self, story: ExperimentStory) -> dict[str, int]:
        """Write what is new; file or folder → how many rows or values stand there."""

    def close(self) -> None:
        """Nothing more comes."""


class CsvSheets:
    """Three CSV files, written anew each time, each whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_story(self, story: ExperimentStory) -> dict[str, int]:
        """Write the sheets; file → rows."""
        return {str(path): rows for path, rows in write_sheets(story, self._folder).items()}

    def close(self) -> None:
        """Nothing is held open."""


def open_targets(csv: Path | None, mlflow: Path | None, tensorboard: Path | None) -> list[Target]:
    """What writes into the folders that are named.

    Raises:
        RequestError: none was named. MissingExtra: a library is not installed.
    """
    named = [folder.absolute() for folder in (csv, mlflow, tensorboard) if folder is not None]
    if not named or len(set(named)) < len(named):
        advice = "Give --csv, --mlflow or --tensorboard, each with a folder of its own"
        raise RequestError("two forms in one folder" if named else "no folder is named", advice=advice)
    found: list[Target] = [] if csv is None else [CsvSheets(csv)]
    found += [] if mlflow is None else [MlflowRun(mlflow)]
    found += [] if tensorboard is None else [EventFile(tensorboard)]
    return found


class FollowedExport:
    """Writes while an experiment is followed (a `View` of `deploy.cli.live`)."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._next = 0.0

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        """Write what is new, where some seconds have gone by."""
        if now >= self._next:
            self._next = now + EVERY
            self._write(story)

    def close_view(self, story: ExperimentStory) -> None:
        """Write the rest."""
        self._write(story)

    def _write(self, story: ExperimentStory) -> None:
        for target in self._targets:
            target.take_story(story)
