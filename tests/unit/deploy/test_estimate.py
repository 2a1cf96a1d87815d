"""What an experiment takes is counted before anything is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import estimate
from messages.experiment import Experiment
from messages.ground.errors import ConfigError

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


NETS = [
    {"name": "UNet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 2},
    {"name": "UNet", "channels": [8, 16], "strides": [2], "num_res_units": 0, "norm": "batch", "act": "RELU"},
    {"name": "UNet", "channels": [8, 12, 16], "strides": [2, 1], "num_res_units": 1, "kernel_size": 5},
    {"name": "SegResNet", "init_filters": 8, "blocks_down": [1, 2, 1], "blocks_up": [1, 2]},
]

BUILD = """
import json, sys
from messages.experiment import Experiment
from nets.initial import initial_model
for line in sys.stdin:
    manifest, _ = initial_model(Experiment.model_validate(json.loads(line)))
    print(sum(spec.size for spec in manifest.tensors))
"""


@pytest.mark.torch
def test_parameters_are_counted_exactly_as_monai_builds_the_nets() -> None:
    experiments = [experiment(net=net) for net in NETS]
    lines = "\n".join(json.dumps(one.plain()) for one in experiments)
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD], input=lines, capture_output=True, text=True, check=True
    )
    counted = [estimate.estimate(one).parameters for one in experiments]
    assert counted == [int(number) for number in built.stdout.split()]


def test_bytes_follow_from_model_sites_and_rounds() -> None:
    found = estimate.estimate(experiment())
    assert found.model_bytes == 4 * found.parameters
    assert found.round_bytes_down == found.round_bytes_up == 3 * found.model_bytes
    assert found.total_bytes == (2 * 3 * 10 + 2 * 3 + 1) * found.model_bytes
    assert found.latest_end_seconds == 10 + 11 * 5


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16-difference"])
def test_a_bfloat16_codec_halves_the_bytes_of_the_rounds_and_of_nothing_else(codec: str) -> None:
    exact, half = estimate.estimate(experiment()), estimate.estimate(experiment(wire={"codec": codec}))
    assert half.model_bytes == exact.model_bytes
    assert 2 * half.round_bytes_down == 2 * half.round_bytes_up == exact.round_bytes_down
    assert half.total_bytes == (3 * 10 + 2 * 3 + 1) * exact.model_bytes
    # One global model and three updates a round; then the candidates and the finished model, exact.
    assert half.broker_disk_bytes == (10 * 2 + 3) * exact.model_bytes


def test_the_coordinators_disk_holds_kept_updates_and_what_the_strategy_keeps_for_their_replay() -> None:
    adam = {"strategy": "FedAdam"}
    plain, keeps = estimate.estimate(experiment()), estimate.estimate(experiment(plan=adam))
    model = plain.model_bytes
    assert (plain.strategy_bytes, keeps.strategy_bytes) == (0, 2 * model)
    # Ten rounds of three updates each; the candidates and the finished model.
    assert plain.coordinator_disk_bytes == (10 * 3 + 3) * model
    # Each round's model and moments as well, and those that the last round left.
    assert keeps.coordinator_disk_bytes == (10 * (3 + 1 + 2) + 3 + 2) * model
    assert estimate.estimate(experiment(plan=adam, keep_updates="none")).coordinator_disk_bytes == (3 + 2) * model
    assert estimate.estimate(experiment(plan=adam, keep_updates=2)).coordinator_disk_bytes == (2 * 6 + 3 + 2) * model


def test_a_larger_patch_or_batch_takes_more_memory_and_mixed_precision_less() -> None:
    def memory(**training: Any) -> int:
        return estimate.estimate(experiment(training=training)).training_memory_bytes

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
