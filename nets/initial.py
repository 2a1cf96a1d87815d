"""`python -m nets.initial`: write an experiment's initial model, so that the coordinator need not import torch.

Prints one JSON object: `digest`, `parameters`, `bytes`, `tensors`. Exit status as everywhere: 2 where the experiment
cannot be built, 1 where writing failed; 4 where it is larger than `--most-bytes`. The reason is the one line on
standard error.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import numpy as np

from messages import codec
from messages.experiment import Experiment, read_experiment
from messages.ground.durable import replace_file
from messages.ground.errors import ConfigError, KonsilError, TooLarge, WorkFailed
from messages.ground.settings import parse_settings
from messages.ground.units import human_bytes
from messages.ground.written.documents import read_json
from messages.tensors.layout import Manifest, write_into
from nets import registry
from nets.architectures.base import NetSpec
from nets.digest import model_digest

SPARE_BYTES = 4 * 2**30
"""What torch and a net's copies may take beside so many times the largest model."""
COPIES = 4


def initial_model(experiment: Experiment, most_bytes: int | None = None) -> tuple[Manifest, bytearray]:
    """The model before round 1: seeded by the experiment, the same on every machine with the same torch.

    Args:
        most_bytes: counted before anything is allocated; None: any size.

    Raises:
        TooLarge: it has more.
    """
    spec = registry.spec_of(experiment)
    if most_bytes is not None:
        _require_fitting(count_bytes(spec, experiment), most_bytes, experiment)
    if (drawn := spec.draw_without_net(experiment.seed)) is not None:
        return drawn

    import torch

    from nets.build import build_for
    from nets.weights import arrays_of, manifest

    # One thread: the initialisers' order of draws does not depend on it, and a coordinator has better to do.
    torch.set_num_threads(1)
    net = build_for(experiment)
    described = manifest(net)
    buffer = bytearray(described.nbytes)
    write_into(arrays_of(net), described, memoryview(buffer))
    return described, buffer


def count_bytes(spec: NetSpec, experiment: Experiment) -> int:
    """Bytes of the net's float32 tensors, counted on torch's meta device, where they take no memory."""
    if (known := spec.size_without_net()) is not None:
        return 4 * known.parameters
    import torch

    from nets.weights import manifest

    task = experiment.task
    with torch.device("meta"):
        return manifest(spec.build(len(task.channels), task.out_channels, experiment.training.dims)).nbytes


def _require_fitting(found: int, most: int, experiment: Experiment) -> None:
    if found > most:
        raise TooLarge(
            f"the net has {human_bytes(found)}, and the coordinator takes at most {human_bytes(most)}",
            where=experiment.net.name,
            advice="Use fewer channels or levels, or ask the operator to raise limits.model_bytes_max",
        )


def _limit_memory(most_bytes: int) -> None:
    """Let this process fail alone where a net takes more than its size explains."""
    most = SPARE_BYTES + COPIES * most_bytes
    _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nets.initial", description="Write an experiment's initial model.")
    parser.add_argument("--experiment", type=Path, required=True, help=".toml, .json or .msgpack")
    parser.add_argument("--out", type=Path, required=True, help="file for the buffer of all tensors")
    parser.add_argument("--manifest", type=Path, required=True, help="file for the manifest (JSON)")
    parser.add_argument("--most-bytes", type=int, help="the largest model that is built; counted first")
    options = parser.parse_args(arguments)
    try:
        experiment = _read_experiment(options.experiment)
        if options.most_bytes is not None:
            _limit_memory(options.most_bytes)
        described, buffer = initial_model(experiment, options.most_bytes)
        _write_whole(options.out, buffer)
        _write_whole(options.manifest, json.dumps(described.plain()).encode())
    except KonsilError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    summary = {
        "digest": model_digest(described, buffer),
        "parameters": int(np.sum([spec.size for spec in described.tensors])),
        "bytes": described.nbytes,
        "tensors": len(described.tensors),
    }
    print(json.dumps(summary))  # noqa: T201
    return 0


def _read_experiment(path: Path) -> Experiment:
    if path.suffix == ".toml":
        return read_experiment(path)
    if path.suffix == ".json":
        return parse_settings(read_json(path), Experiment, str(path))
    try:
        plain = codec.unpack(path.read_bytes())
    except (OSError, ValueError, KonsilError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from None
    return parse_settings(plain, Experiment, str(path))


def _write_whole(path: Path, content: bytes | bytearray) -> None:
    try:
        replace_file(path, content, durable=True)
    except OSError as error:
        raise WorkFailed(f"cannot be written ({error.strerror})", where=str(path)) from None


if __name__ == "__main__":
    raise SystemExit(main())
