"""A trainer that finds nothing to train on says what it left out and why: the site declines with these counts."""

from __future__ import annotations

from pathlib import Path

import torch
from trainer_rig import experiment, preparation, write_data

from messages.experiment import Experiment
from site_agent.training.session import TrainingSession


def test_channels_that_no_case_has_are_counted_case_by_case(tmp_path: Path) -> None:
    write_data(tmp_path)
    plain = experiment().as_plain()
    plain["task"]["channels"] = ["T1", "ADC"]
    threads = torch.get_num_threads()
    try:
        prepared = TrainingSession(preparation(tmp_path, Experiment.model_validate(plain)), lambda reply: None).prepared
    finally:
        torch.set_num_threads(threads)
    assert (prepared.found, prepared.used, prepared.train) == (8, 0, 0)
    assert prepared.left_out == {"missing-channel": 8}
