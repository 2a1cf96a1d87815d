"""An experiment as a run of MLflow's file store, written by MLflow itself.

MLflow 3 keeps the file store for those who ask for it (`MLFLOW_ALLOW_FILE_STORE`); its databases need no less than all
of MLflow, and `mlflow migrate-filestore` takes a file store into one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from deploy.extras import need_module
from deploy.story.figures import list_labels, list_points, list_settings
from deploy.story.story import ExperimentStory
from messages.ground.errors import WorkFailed

ALLOW = "MLFLOW_ALLOW_FILE_STORE"
QUIET = "MLFLOW_DISABLE_TELEMETRY"
"""MLflow 3 tells its makers of each use, from its import on: an export tells nobody."""
MOST_TEXT = 6000
"""Characters of a parameter that MLflow takes."""
AT_ONCE = 900
"""Metrics of one call: MLflow takes 1,000."""
STATUS = {"complete": "FINISHED", "failed": "FAILED", "refused": "FAILED", "aborted": "KILLED"}


class MlflowRun:
    """One run in the MLflow experiment `konsil`, found again by the tag `konsil.experiment`: a second export adds what
    is new.

    Args:
        folder: of the file store; made where it is not there.

    Raises:
        MissingExtra: MLflow is not installed. WorkFailed: the folder is no file store, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        need_module("mlflow", what="--mlflow")
        os.environ.setdefault(ALLOW, "true")
        os.environ[QUIET] = "true"
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self.where, self._failures = str(folder), (MlflowException, OSError)
        self._client: Any = None
        self._run = ""
        self._written: set[tuple[str, int]] = set()
        try:
            self._client = MlflowClient(tracking_uri=folder.absolute().as_uri())
            self._client.search_experiments(max_results=1)
        except self._failures as error:
            raise self._say_failed(error) from None

    def take_story(self, story: ExperimentStory) -> dict[str, int]:
        """Write what is not there yet; the store → how many values the run has."""
        try:
            self._find_run(story)
            self._write_story(story)
        except self._failures as error:
            raise self._say_failed(error) from None
        return {self.where: len(self._written)}

    def close(self) -> None:
        """Nothing is held open."""

    def _find_run(self, story: ExperimentStory) -> None:
        if self._run:
            return
        named = self._client.get_experiment_by_name("konsil")
        home = self._client.create_experiment("konsil") if named is None else named.experiment_id
        (run,) = self._client.search_runs([home], f"tags.`konsil.experiment` = '{story.id}'", max_results=1) or (None,)
        if run is None:
            tags = {"konsil.experiment": story.id}
            began = round((story.started or 0.0) * 1000)
            run = self._client.create_run(home, start_time=began, run_name=story.id, tags=tags)
        self._run = run.info.run_id
        for name in run.data.metrics:
            self._written |= {(name, one.step) for one in self._client.get_metric_history(self._run, name)}

    def _write_story(self, story: ExperimentStory) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(key, value[:MOST_TEXT]) for key, value in list_settings(story).items()]
        tags = [RunTag(key, value) for key, value in list_labels(story).items()]
        points = [(clean_name(one.name), one) for one in list_points(story)]
        new = [(name, one) for name, one in points if (name, one.step) not in self._written]
        metrics = [Metric(name, one.value, round(one.time * 1000), one.step) for name, one in new]
        for first in range(0, len(params), 100):  # no more in one call
            self._client.log_batch(self._run, params=params[first : first + 100])
        for first in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[first : first + AT_ONCE])
        self._client.log_batch(self._run, tags=tags)
        self._written |= {(name, one.step) for name, one in new}
        if story.over:
            ended = None if story.ended is None else round(story.ended * 1000)
            self._client.set_terminated(self._run, STATUS[story.phase], ended)

    def _say_failed(self, error: Exception) -> WorkFailed:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return WorkFailed(f"MLflow cannot write there ({words[0]})", where=self.where, advice="Name another folder")


def clean_name(name: str) -> str:
    """A curve's name as MLflow takes it: letters, digits, '_', '-', '.', ' ' and '/'."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)
