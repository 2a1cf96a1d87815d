"""Regression in the training process: whole images, a number each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.tasks.base import Split, TaskRows
from messages.tasks.regression import NumberRow, NumberRows, RegressionTask
from site_agent.training.cases.cache import CachedCase
from site_agent.training.tasks.base import Learner, answer_image
from site_agent.training.tasks.losses import Loss

LOSSES: dict[str, Loss] = {
    "mse": torch.nn.functional.mse_loss,
    "l1": torch.nn.functional.l1_loss,
    "huber": torch.nn.functional.huber_loss,
}


class RegressionLearner(Learner):
    """Trains towards (value - centre) / scale, and scores values.

    Raises:
        ConfigError: the experiment's task is another one.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        task = experiment.task
        if not isinstance(task, RegressionTask):
            raise ConfigError(f"{task.kind!r} is no regression", where="task.kind")
        self._task = task
        self._loss = LOSSES[experiment.training.loss_table.name]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._loss(logits, (labels - self._task.centre) / self._task.scale)

    def score_case(self, net: torch.nn.Module, case: CachedCase, device: torch.device) -> NumberRow:
        image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
        found = float(answer_image(net, image, self.asked, device)[0])
        return NumberRow(
            case=case.name, true=float(case.truth[0]), predicted=found * self._task.scale + self._task.centre
        )

    def failed_case(self, name: str) -> NumberRow:
        return NumberRow(case=name)

    def rows_of(self, split: Split, cases: list[Any]) -> TaskRows:
        return NumberRows(split=split, quantity=self._task.quantity, centre=self._task.centre, cases=cases)
