"""What an experiment takes is counted before anything is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import estimate
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from nets.architectures.base import NetSize

BASE: dict[str, Any] = {
    "schema": 1,
    "id": "try",
    "sites": ["site-a", "site-b", "site-c"],
    "task": {"kind": "segmentation", "channels": ["T1", "FLAIR"], "regions": {"WT": ["ED"], "TC": ["NCR"]}},
    "data": {"dataset": "glioma"},
    "net": {"name": "UNet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 2},
    "training": {"patch": [32, 32, 32]},
    "rounds": {"count": 10, "enrol_within": "10s", "train_within": "5s"},
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(BASE | changes)


def in_process(one: Experiment) -> NetSize:
    """The net measured here: a process for each estimate would take seconds."""
    from nets.measure import measure_experiment

    return measure_experiment(one)


@pytest.mark.torch
def test_the_net_is_measured_in_a_process_of_its_own() -> None:
    assert estimate.estimate(experiment()) == estimate.estimate(experiment(), in_process)


def test_a_net_that_cannot_be_built_is_said_in_its_own_words() -> None:
    with pytest.raises(ConfigError, match="'UNett' does not exist"):
        estimate.measure_apart(experiment(net={"name": "UNett"}))


def test_bytes_follow_from_model_sites_and_rounds() -> None:
    found = estimate.estimate(experiment(), in_process)
    assert found.model_bytes == 4 * found.parameters
    assert found.round_bytes_down == found.round_bytes_up == 3 * found.model_bytes
    assert found.total_bytes == (2 * 3 * 10 + 2 * 3 + 1) * found.model_bytes
    assert found.latest_end_seconds == 10 + 11 * 3 * 5  # each extended twice


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16-difference"])
def test_a_bfloat16_codec_halves_the_bytes_of_the_rounds_and_of_nothing_else(codec: str) -> None:
    exact = estimate.estimate(experiment(), in_process)
    half = estimate.estimate(experiment(wire={"codec": codec}), in_process)
    assert half.model_bytes == exact.model_bytes
    assert 2 * half.round_bytes_down == 2 * half.round_bytes_up == exact.round_bytes_down
    assert half.total_bytes == (3 * 10 + 2 * 3 + 1) * exact.model_bytes
    # One global model and three updates a round; then the candidates and the finished model, exact.
    assert half.broker_disk_bytes == (10 * 2 + 3) * exact.model_bytes


def test_the_coordinators_disk_holds_kept_updates_and_what_the_strategy_keeps_for_their_replay() -> None:
    adam = {"strategy": "FedAdam"}
    size = in_process(experiment())

    def estimated(**changes: Any) -> estimate.Estimate:
        return estimate.estimate(experiment(**changes), lambda _same_net: size)

    plain, keeps = estimated(), estimated(plan=adam)
    model = plain.model_bytes
    assert (plain.strategy_bytes, keeps.strategy_bytes) == (0, 2 * model)
    # Ten rounds of three updates each; the candidates and the finished model.
    assert plain.coordinator_disk_bytes == (10 * 3 + 3) * model
    # Each round's model and moments as well, and those that the last round left.
    assert keeps.coordinator_disk_bytes == (10 * (3 + 1 + 2) + 3 + 2) * model
    assert estimated(plan=adam, keep_updates="none").coordinator_disk_bytes == (3 + 2) * model
    assert estimated(plan=adam, keep_updates=2).coordinator_disk_bytes == (2 * 6 + 3 + 2) * model


def test_what_travels_beside_the_net_is_counted() -> None:
    size = in_process(experiment())
    plain, twice = (
        estimate.estimate(experiment(plan={"strategy": name}), lambda _same_net: size)
        for name in ("FedProx", "SCAFFOLD")
    )
    assert twice.model_bytes == plain.model_bytes
    assert (twice.round_bytes_down, twice.total_bytes) == (2 * plain.round_bytes_down, 2 * plain.total_bytes)
    assert twice.broker_disk_bytes == 2 * plain.broker_disk_bytes


def test_a_larger_patch_or_batch_takes_more_memory_and_mixed_precision_less() -> None:
    def memory(**training: Any) -> int:
        return estimate.estimate(experiment(training=training), in_process).training_memory_bytes

    small = memory(patch=[32, 32, 32], batch=2)
    assert memory(patch=[64, 32, 32], batch=2) > small
    assert memory(patch=[32, 32, 32], batch=4) > small
    assert memory(patch=[32, 32, 32], batch=2, precision="amp") < small


def test_nothing_is_estimated_for_a_net_that_does_not_fit_the_experiment() -> None:
    with pytest.raises(ConfigError, match=r"training\.patch = \[32, 32, 30\].* multiple of 4"):
        estimate.estimate(experiment(training={"patch": [32, 32, 30]}))


def test_estimating_does_not_import_torch() -> None:
    modules = "deploy.estimate, deploy.cli.experiment, deploy.session.model_file"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path.cwd(), check=False).returncode == 0


def test_in_a_sequential_plan_one_site_a_round_sends_an_update_and_a_round_may_wait_for_each_site() -> None:
    found = estimate.estimate(experiment(plan={"kind": "sequential"}), in_process)
    assert (found.round_bytes_down, found.round_bytes_up) == (3 * found.model_bytes, found.model_bytes)
    assert found.total_bytes == ((3 + 1) * 10 + 2 * 3 + 1) * found.model_bytes
    assert found.latest_end_seconds == 10 + (10 * (3 + 2) + 3) * 5
