"""`python -m nets.measure`: how large a net is, so that whoever estimates need not import torch.

Reads an experiment as JSON on standard input, prints one JSON object: `parameters`, `kept_bytes`. Exit status 2 where
the experiment's net cannot be built; the reason is the one line on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError, KonsilError
from messages.ground.settings import parse_settings
from nets import registry
from nets.architectures.base import NetSize, NetSpec
from nets.weights import manifest


def measure_net(spec: NetSpec, inputs: int, outputs: int, patch: Sequence[int]) -> NetSize:
    """Count on torch's meta device: tensors have shapes and no memory, so that no size is too large to ask for.

    Parameters are exact. What is kept is what autograd says that it saves for the backward pass of one patch.
    """
    if (known := spec.size_without_net()) is not None:
        return known
    with torch.device("meta"):
        net = spec.build(inputs, outputs, len(patch)).train()
    return NetSize(
        parameters=sum(tensor.size for tensor in manifest(net).tensors),
        kept_bytes=count_kept_bytes(net, inputs, patch),
    )


def count_kept_bytes(net: torch.nn.Module, inputs: int, patch: Sequence[int]) -> int:
    """What a net on the meta device keeps of one patch until its backward pass."""
    sample = torch.empty(2, inputs, *patch, device="meta")
    own = {tensor.untyped_storage()._cdata for tensor in net.state_dict().values()}
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # held, so that no later storage can have its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = net(sample)
        kept = sum(storage.nbytes() for storage in saved.values())
        del out
    return kept // len(sample)


def measure_experiment(experiment: Experiment) -> NetSize:
    """The size of an experiment's net on a patch of its own.

    Raises:
        ConfigError: the net does not exist, or does not fit the experiment.
    """
    task = experiment.task
    return measure_net(registry.check_net(experiment), len(task.channels), task.out_channels, experiment.training.patch)


def main() -> int:
    """Entry point; returns the exit status."""
    try:
        size = measure_experiment(parse_settings(_measure_plain(), Experiment, "experiment"))
    except KonsilError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    print(json.dumps(asdict(size)))  # noqa: T201
    return 0


def _measure_plain() -> Any:
    try:
        return json.load(sys.stdin)
    except ValueError as error:
        raise ConfigError(f"cannot be read ({error})", where="experiment") from None


if __name__ == "__main__":
    raise SystemExit(main())
