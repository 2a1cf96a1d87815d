"""Regression in the training process: trained towards scaled values, scored in the table's own unit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from class_task import class_experiment, table_source, write_pictures

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.tasks.regression import NumberRows
from site_agent.training.protocol import Prepare
from site_agent.training.session import TrainingSession
from site_agent.training.tasks.classification import ClassificationLearner
from site_agent.training.tasks.regression import RegressionLearner


def age(loss: str = "mse") -> Experiment:
    plain = class_experiment(net={"name": "CNN", "channels": [4]}).as_plain()
    plain["task"] = {"kind": "regression", "channels": ["US"], "quantity": "age", "centre": 50, "scale": 10}
    plain["training"] |= {"loss": loss}
    del plain["evaluation"]
    return Experiment.model_validate(plain)


@pytest.mark.parametrize(("loss", "expected"), [("mse", (1 + 4) / 2), ("l1", 1.5), ("huber", (0.5 + 1.5) / 2)])
def test_the_loss_is_of_scaled_values(loss: str, expected: float) -> None:
    learner = RegressionLearner(age(loss))
    assert float(learner.loss(torch.zeros((2, 1)), torch.tensor([[60.0], [30.0]]))) == pytest.approx(expected)


def test_a_case_is_scored_in_its_own_unit_and_words_are_left_out(tmp_path: Path) -> None:
    class Says(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 1), 1.5)

    write_pictures(tmp_path / "set", ["20", "40.5", "old"] * 4)
    request = Prepare(
        experiment=age().as_plain(),
        dataset=table_source(tmp_path / "set"),
        site="site-a",
        secret=b"secret",
        threads=1,
        cache=str(tmp_path / "cache"),
    )
    threads = torch.get_num_threads()
    try:
        site = TrainingSession(request, lambda _: None)
    finally:
        torch.set_num_threads(threads)
    assert site.prepared.left_out == {"unknown-label-value": 4}
    cases = [case for split in site.splits.values() for case in split]
    rows = site.learner.evaluate(Says(), cases, split="test", device=site.device)
    assert isinstance(rows, NumberRows)
    scores = rows.scores()
    assert age().task.reader.headline_score(scores) == pytest.approx((45 + 24.5) / 2)
    assert scores.cases == 8


def test_each_learner_refuses_another_task() -> None:
    with pytest.raises(ConfigError, match="'regression' is no classification"):
        ClassificationLearner(age())
    with pytest.raises(ConfigError, match="'classification' is no regression"):
        RegressionLearner(class_experiment())
