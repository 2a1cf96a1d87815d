"""What an experiment will take, before anything is sent: model, memory of training, bytes, time.

Parameters are counted exactly, layer by layer as MONAI 1.6 builds the nets (tests hold the count against the built
net). Memory and time are estimates: the page of `experiment check` says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from coordinator.work.strategies.table import strategy_of
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, WorkFailed
from messages.tensors.codecs import CODECS
from nets import registry
from nets.registry import RehearsalSpec, SegResNetSpec, UNetSpec

FLOAT = 4
"""Bytes of a float32."""
FRAMEWORK_BYTES = 600 * 2**20
"""What the training process holds before it holds a net: interpreter, torch, MONAI, one loaded case."""
MOMENTS = {"Adam": 2, "AdamW": 2, "SGD": 1}
"""Tensors that an optimiser keeps beside each weight."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution with its normalisation and activation.

    `weights` are parameters and averaged buffers; `kept` the elements, for one sample, that stay in memory until the
    backward pass.
    """

    weights: int
    kept: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """All bytes are bytes, all times seconds. `exact` says whether parameters were counted by building the net."""

    parameters: int
    model_bytes: int
    training_memory_bytes: int
    round_bytes_down: int
    """The global model, once for each site."""
    round_bytes_up: int
    total_bytes: int
    """All rounds, the evaluation phase, and the finished model."""
    broker_disk_bytes: int
    """Chunks that the broker keeps if nothing is evicted: one global model a round, one update a site and round."""
    strategy_bytes: int
    """What the strategy keeps at the coordinator from round to round: at most so much, as statistics are not told from
    weights here."""
    coordinator_disk_bytes: int
    """Updates kept for replay, with the models and the strategy's memory that they are replayed from; the models that
    the end needs. The operator's cap on kept rounds is not known here."""
    latest_end_seconds: float
    """If every wait lasted as long as the file allows, extensions left out."""

    def plain(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def estimate(experiment: Experiment) -> Estimate:
    """Count and estimate; builds the net in a process of its own only where its layers are not known here.

    Raises:
        ConfigError: the net does not exist or its parameters are wrong.
        WorkFailed: the net could not be built.
    """
    spec = registry.check(experiment)
    found = layers(spec, experiment)
    if found is None:
        parameters = _built_size(experiment)
        kept = 60 * prod(experiment.training.patch)
    else:
        parameters = sum(layer.weights for layer in found)
        kept = sum(layer.kept for layer in found)
    training = experiment.training
    model = parameters * FLOAT
    per_element = FLOAT * (0.6 if training.precision == "amp" else 1.0)
    memory = FRAMEWORK_BYTES + model * (2 + MOMENTS[training.optimizer.name]) + int(kept * training.batch * per_element)
    sites, rounds = len(experiment.sites), experiment.rounds.count
    codec = CODECS[experiment.wire.codec]
    down, up = (parameters * CODECS[name].nbytes("float32", 1) for name in (codec.model, codec.name))
    kept_beside = FLOAT * parameters * len(strategy_of(experiment.plan.strategy).parts)
    from_model = codec.difference or experiment.plan.strategy.from_model
    replayed = kept_beside + (model if from_model else 0)
    candidates = 2 if experiment.evaluation.select_by != "last" else 1
    ended = (candidates + 1) * model + kept_beside
    return Estimate(
        parameters=parameters,
        model_bytes=model,
        training_memory_bytes=memory,
        round_bytes_down=down * sites,
        round_bytes_up=up * sites,
        total_bytes=(down + up) * sites * rounds + candidates * model * sites + model,
        broker_disk_bytes=rounds * (down + up * sites) + model * (candidates + 1),
        strategy_bytes=kept_beside,
        coordinator_disk_bytes=_kept_rounds(experiment) * (up * sites + replayed) + ended,
        latest_end_seconds=experiment.rounds.enrol_within + experiment.rounds.train_within * (rounds + 1),
    )


def _kept_rounds(experiment: Experiment) -> int:
    """Rounds whose updates the coordinator is asked to keep."""
    wish, rounds = experiment.keep_updates, experiment.rounds.count
    return min(wish, rounds) if isinstance(wish, int) else rounds if wish == "all" else 0


def layers(spec: registry.NetSpec, experiment: Experiment) -> list[Layer] | None:
    """The net's layers; None for a net whose form is not known here."""
    inputs, outputs = len(experiment.task.channels), experiment.task.out_channels
    voxels = prod(experiment.training.patch)
    if isinstance(spec, UNetSpec):
        return list(_unet(spec, inputs, outputs, spec.channels, spec.strides, voxels, is_top=True))
    if isinstance(spec, SegResNetSpec):
        return list(_segresnet(spec, inputs, outputs, voxels))
    if isinstance(spec, RehearsalSpec):
        return [Layer(spec.elements, 0)] * spec.tensors
    return None


def _conv(spec: UNetSpec, inputs: int, outputs: int, kernel: int, voxels: int, *, bare: bool = False) -> Layer:
    """`monai.networks.blocks.Convolution`: convolution with bias; then norm, dropout, activation unless `bare`."""
    weights = inputs * outputs * kernel**3 + outputs
    if bare:
        return Layer(weights, outputs * voxels)
    weights += {"instance": 0, "group": 2 * outputs, "batch": 4 * outputs}[spec.norm]
    weights += 1 if spec.act == "PRELU" else 0
    return Layer(weights, outputs * voxels * (3 if spec.dropout else 2))


def _unit(
    spec: UNetSpec,
    inputs: int,
    outputs: int,
    stride: int,
    voxels: int,
    *,
    subunits: int,
    last_bare: bool = False,
) -> Iterator[Layer]:
    """`ResidualUnit`; `voxels` of its output."""
    width = inputs
    for index in range(subunits):
        yield _conv(spec, width, outputs, spec.kernel_size, voxels, bare=last_bare and index == subunits - 1)
        width = outputs
    if stride != 1 or inputs != outputs:
        yield _conv(spec, inputs, outputs, spec.kernel_size if stride != 1 else 1, voxels, bare=True)


def _down(spec: UNetSpec, inputs: int, outputs: int, stride: int, voxels: int) -> Iterator[Layer]:
    if spec.num_res_units:
        yield from _unit(spec, inputs, outputs, stride, voxels, subunits=spec.num_res_units)
    else:
        yield _conv(spec, inputs, outputs, spec.kernel_size, voxels)


def _unet(
    spec: UNetSpec,
    inputs: int,
    outputs: int,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    voxels: int,
    *,
    is_top: bool,
) -> Iterator[Layer]:
    """`monai.networks.nets.UNet._create_block`: down, what lies below, up; `voxels` of the block's input."""
    width, stride = channels[0], strides[0]
    below = voxels // stride**3
    yield from _down(spec, inputs, width, stride, below)
    if len(channels) > 2:
        yield from _unet(spec, width, width, channels[1:], strides[1:], below, is_top=False)
        joined = 2 * width
    else:
        yield from _down(spec, width, channels[1], 1, below)
        joined = width + channels[1]
    yield Layer(0, joined * below)  # the concatenation of the skip connection
    yield _conv(spec, joined, outputs, 3, voxels, bare=is_top and spec.num_res_units == 0)
    if spec.num_res_units:
        yield from _unit(spec, outputs, outputs, 1, voxels, subunits=1, last_bare=is_top)


def _segresnet(spec: SegResNetSpec, inputs: int, outputs: int, voxels: int) -> Iterator[Layer]:
    """`monai.networks.nets.SegResNet`: group norm with weights, convolutions without bias, trilinear up-sampling."""

    def block(width: int, grid: int) -> Layer:
        return Layer(2 * (width * width * 27 + 2 * width), 6 * width * grid)

    first = spec.init_filters
    yield Layer(inputs * first * 27, first * voxels * (2 if spec.dropout else 1))
    for level, blocks in enumerate(spec.blocks_down):
        width, grid = first * 2**level, voxels // 8**level
        if level:
            yield Layer(width // 2 * width * 27, width * grid)
        yield from (block(width, grid) for _ in range(blocks))
    for step, blocks in enumerate(spec.blocks_up):
        level = len(spec.blocks_up) - 1 - step
        width, grid = first * 2**level, voxels // 8**level
        yield Layer(2 * width * width, width * (grid // 8) + 2 * width * grid)
        yield from (block(width, grid) for _ in range(blocks))
    yield Layer(2 * first + first * outputs + outputs, (2 * first + outputs) * voxels)


def _built_size(experiment: Experiment) -> int:
    """Parameters of a net, by building it in a process of its own (torch is not imported here)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "experiment.json")
        file.write_text(json.dumps(experiment.plain()))
        command = [sys.executable, "-m", "nets.initial", "--experiment", str(file)]
        command += ["--out", str(Path(folder, "buffer")), "--manifest", str(Path(folder, "manifest.json"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            words = done.stderr.strip().splitlines()
            what = words[-1] if words else f"the process ended with {done.returncode}"
            raise (ConfigError if done.returncode == 2 else WorkFailed)(what, where="net")
        return int(json.loads(done.stdout)["parameters"])
