"""What an experiment will take, before anything is sent: model, memory of training, bytes, time.

Parameters are counted exactly, on the net itself without its memory (`nets.measure`). Memory and time are estimates:
the page of `experiment check` says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from coordinator.work.strategies.table import strategy_of
from deploy.extras import need_module
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, WorkFailed
from messages.tensors.codecs import CODECS
from nets import registry
from nets.architectures.base import NetSize

FLOAT = 4
"""Bytes of a float32."""
FRAMEWORK_BYTES = 600 * 2**20
"""What the training process holds before it holds a net: interpreter, torch, MONAI, one loaded case."""
MEASURED_WITHIN = 300.0
"""Seconds for the process that measures a net."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """All bytes are bytes, all times seconds."""

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

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def estimate(experiment: Experiment, measure: Callable[[Experiment], NetSize] | None = None) -> Estimate:
    """Measure the net and estimate.

    Args:
        measure: how the net is measured; `measure_apart` where nothing is given.

    Raises:
        ConfigError: the net does not exist or its parameters are wrong.
        WorkFailed: the net could not be built.
    """
    size = registry.check_net(experiment).size_without_net() or (measure or measure_apart)(experiment)
    parameters = size.parameters
    training = experiment.training
    model = parameters * FLOAT
    kept = int(size.kept_bytes * training.batch * (1.0 if training.precision == "float32" else 0.6))
    weights = experiment.plan.strategy.nets * model * (2 + training.optimizer.moments + (training.ema is not None))
    memory = FRAMEWORK_BYTES + weights + kept
    sites, rounds = len(experiment.sites), experiment.rounds.count
    plan = experiment.plan
    # All sites read the model of each round; in a sequential plan one trains it, and up to all may be asked to.
    trained, waits = (1, sites) if plan.kind == "sequential" else (sites if plan.trains else 0, 1)
    trained = plan.buffer or trained  # the others' work goes into later rounds
    own = 1 if plan.shares_model else sites  # models that a round sends: where each site has its own, all read all
    codec = CODECS[experiment.wire.codec]
    sent = parameters * (1 + plan.strategy.beside)
    exact = FLOAT * sent
    down, up = (sent * CODECS[name].nbytes("float32", 1) for name in (codec.model, codec.name))
    strategy = FLOAT * parameters * len(strategy_of(plan.strategy).parts)
    replayed = strategy + (own * exact if codec.difference or plan.strategy.from_model or plan.keeps_work else 0)
    candidates = own if own > 1 else 2 if plan.trains and experiment.evaluation.select_by != "last" else 1
    begun = exact * min(sites, plan.max_staleness) if plan.keeps_work else 0  # models that sites still work with
    ended = (candidates + 1) * exact + strategy + begun
    within = experiment.rounds
    return Estimate(
        parameters=parameters,
        model_bytes=model,
        training_memory_bytes=memory,
        round_bytes_down=down * sites * own,
        round_bytes_up=up * trained,
        total_bytes=(down * sites * own + up * trained) * rounds + candidates * exact * sites + exact,
        broker_disk_bytes=rounds * (down * own + up * trained) + exact * (candidates + 1),
        strategy_bytes=strategy,
        coordinator_disk_bytes=_kept_rounds(experiment) * (up * trained + replayed) + ended,
        latest_end_seconds=within.enrol_within + _count_deadlines(experiment, waits) * within.train_within,
    )


def _count_deadlines(experiment: Experiment, waits: int) -> int:
    """How many deadlines may pass, at most, until the experiment ends: those of rounds and evaluation, extended.

    Args:
        waits: steps that a round may open, one after the other.
    """
    rounds = experiment.rounds
    extended = rounds.extensions if rounds.at_deadline == "extend" else 0
    return rounds.count * (waits + extended) + 1 + extended


def _kept_rounds(experiment: Experiment) -> int:
    """Rounds whose updates the coordinator is asked to keep."""
    wish, rounds = experiment.keep_updates, experiment.rounds.count
    return min(wish, rounds) if isinstance(wish, int) else rounds if wish == "all" else 0


def measure_apart(experiment: Experiment, show: Callable[[float], None] | None = None) -> NetSize:
    """The net's size, measured in a process of its own: torch is not imported here.

    Args:
        show: told every second how long it has taken.

    Raises:
        ConfigError: the net cannot be built. WorkFailed: the process failed. MissingExtra: torch is not installed.
    """
    need_module("torch", what="measuring the net")
    command = [sys.executable, "-m", "nets.measure"]
    given = json.dumps(experiment.as_plain())
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        said, complaint = _wait_for(process, given, show)
    if process.returncode:
        words = complaint.strip().splitlines()
        what = words[-1] if words else f"the process ended with {process.returncode}"
        raise (ConfigError if process.returncode == 2 else WorkFailed)(what, where="net")
    return NetSize(**json.loads(said))


def _wait_for(process: subprocess.Popen[str], given: str, show: Callable[[float], None] | None) -> tuple[str, str]:
    """What a process says on its two outputs, once it has ended; WorkFailed where it takes too long."""
    began, given_now = time.monotonic(), [given]
    while (taken := time.monotonic() - began) < MEASURED_WITHIN:
        try:
            return process.communicate(given_now.pop() if given_now else None, timeout=1.0)
        except subprocess.TimeoutExpired:
            if show is not None:
                show(taken)
    process.kill()
    raise WorkFailed(f"the net could not be measured within {MEASURED_WITHIN:.0f} s", where="net")
