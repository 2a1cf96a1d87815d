"""A training process under differential privacy: whom it counts, what it refuses, and what it repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_rig import experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from messages.secure.shared import SHARED_UNITS
from nets.initial import initial_model
from site_agent.training.failures import code_of
from site_agent.training.private import NetNotPrivate
from site_agent.training.protocol import Progress, Train
from site_agent.training.session import TrainingSession


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_data(folder)
    return folder


def private(**net: Any) -> Experiment:
    plain = experiment().as_plain()
    plain["net"] |= net
    plain["training"] |= {"local_epochs": None, "local_steps": 2, "clip_norm": None}
    dp = {"noise_multiplier": 1.0, "clip_norm": 1.0, "sample_rate": 0.5, "patches_per_patient": 2}
    return Experiment.model_validate(plain | {"privacy": {"dp": dp}})


def by_site(rate: float) -> Experiment:
    """A whole site is the unit; `rate`: how far its training goes."""
    plain = experiment().as_plain()
    plain["sites"], plain["quorum"] = ["site-a", "site-b", "site-c"], {"least_sites": 3}
    plain["plan"]["weight_by"] = "equal"
    plain["training"] |= {"local_epochs": None, "local_steps": 2, "clip_norm": None}
    plain["training"]["optimizer"] |= {"lr": rate}
    dp = {"unit": "site", "noise": "shared", "noise_multiplier": 3.0, "clip_norm": 0.5, "sample_rate": 1.0}
    return Experiment.model_validate(plain | {"privacy": {"secure_aggregation": "masks", "dp": dp}})


def test_a_whole_sites_difference_is_clipped_and_has_its_part_of_the_noise_in_whole_numbers(
    data: Path, tmp_path: Path
) -> None:
    """That nothing was learnt leaves noise alone; a difference far beyond the clip changes it by the clip."""
    words = {}
    for rate in (1e-30, 1.0):
        session = TrainingSession(preparation(data, by_site(rate)), lambda _said: None)
        told = session.train_round(request_of(tmp_path, by_site(rate), str(rate), session.prepared.patients))
        assert told.loss == 0.0
        words[rate] = np.fromfile(tmp_path / str(rate), dtype=np.int32).astype(np.int64)
    quiet = words[1e-30] / (3.0 * SHARED_UNITS)
    assert quiet.size > 2000
    assert abs(float(np.mean(quiet**2)) - 1 / 3) < 4 / 3 * (2 / quiet.size) ** 0.5
    moved = words[1.0] / (3.0 * SHARED_UNITS)
    assert abs(float(np.mean(moved**2)) - 1 / 3) < 4 / 3 * (2 / quiet.size) ** 0.5 + 1 / 9 / quiet.size


def request_of(folder: Path, chosen: Experiment, name: str, patients: int) -> Train:
    manifest, buffer = initial_model(chosen)
    (folder / "model").write_bytes(buffer)
    return Train(
        round=1, attempt=1, model=str(folder / "model"), manifest=manifest.plain(), update=manifest.plain(),
        output=str(folder / name), patients=patients,
    )  # fmt: skip


def test_studies_are_grouped_by_patient_the_loss_is_withheld_and_a_repetition_gives_the_same_bits(
    data: Path, tmp_path: Path
) -> None:
    chosen, said = private(), list[Any]()
    site = TrainingSession(preparation(data, chosen), said.append)
    train = [one for one in site.prepared.cases if one.split == "train"]
    assert site.prepared.patients == len({one.patient for one in train})
    assert sorted(number for group in site._groups for number in group) == list(range(len(train)))
    told = site.train_round(request_of(tmp_path, chosen, "one", site.prepared.patients))
    assert (told.loss, told.steps, told.cases) == (0.0, 2, len(train))
    assert {one.loss for one in said if isinstance(one, Progress)} == {None}
    site.train_round(request_of(tmp_path, chosen, "two", site.prepared.patients))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with pytest.raises(WorkFailed, match="has not announced"):
        site.train_round(request_of(tmp_path, chosen, "three", 0))


def test_a_net_that_mixes_patients_is_refused_before_the_site_joins(data: Path) -> None:
    with pytest.raises(NetNotPrivate) as error:
        TrainingSession(preparation(data, private(norm="batch")), lambda _reply: None)
    assert code_of(error.value) is Reason.NET_NOT_PRIVATE
