"""Segmentation in the training process: regions as the target, Dice by case and region."""

from __future__ import annotations

from typing import Any

import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.tasks.base import Split, TaskRows
from messages.tasks.segmentation import CaseRow, SegmentationTask, SplitRows
from site_agent.training.cases.cache import CachedCase
from site_agent.training.tasks.base import Learner
from site_agent.training.tasks.evaluation import score_case
from site_agent.training.tasks.losses import loss_for
from site_agent.training.tasks.regions import Regions


class SegmentationLearner(Learner):
    """Trains towards regions, and scores them on the native grid.

    Raises:
        ConfigError: the experiment's task is another one.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        task = experiment.task
        if not isinstance(task, SegmentationTask):
            raise ConfigError(f"{task.kind!r} is no segmentation", where="task.kind")
        self.regions = Regions(task.regions, task.concepts, softmax=task.activation == "softmax")
        self._loss = loss_for(experiment.training.loss_table.name)
        self._hd95 = "hd95" in experiment.evaluation.metrics

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._loss(logits, self.regions.make_target(labels))

    def score_case(self, net: torch.nn.Module, case: CachedCase, device: torch.device) -> CaseRow:
        return score_case(net, case, self.asked, self.regions, device, hd95=self._hd95)

    def failed_case(self, name: str) -> CaseRow:
        return CaseRow(case=name, failed=True, regions={})

    def rows_of(self, split: Split, cases: list[Any]) -> TaskRows:
        return SplitRows(split=split, cases=cases, hd95=self._hd95)
