"""Optimisers, and keeping their state between rounds (`optimizer.reset = false`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from messages.experiment import Optimizer
from messages.ground.durable import writing_beside
from site_agent.training.files import kept_file


def make_optimizer(settings: Optimizer, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser."""
    decay = settings.weight_decay
    if settings.name == "SGD":
        return torch.optim.SGD(
            parameters, lr, momentum=settings.momentum, nesterov=settings.momentum > 0, weight_decay=decay
        )
    kind = torch.optim.AdamW if settings.name == "AdamW" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)


def flatten_state(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Its state as tensors named "PARAMETER.KEY", where they lie; the parameter by its number, from 0."""
    return {
        f"{index}.{key}": value.detach()
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
        if isinstance(value, torch.Tensor)
    }


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take state that `flatten_state` gave; rates and the like stay as they are."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def fits_state(optimizer: torch.optim.Optimizer, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether state of these names and shapes could be this optimiser's: a scalar, or shaped as its parameter."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for name, shape in shapes.items():
        index, _, key = name.partition(".")
        if not (key and index.isdigit() and int(index) < len(parameters)):
            return False
        if shape not in ((), tuple(parameters[int(index)].shape)):
            return False
    return True


class KeptState:
    """An experiment's optimiser state at this site, by round, without pickle.

    The state after a round is written under that round's number and the two newest are kept, so that training a
    round again starts from the state before it and gives the same bits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore_state(self, optimizer: torch.optim.Optimizer, before_round: int) -> bool:
        """Load the newest state of an earlier round; False where there is none."""
        rounds = [number for number in self._kept_rounds() if number < before_round]
        if not rounds:
            return False
        load_state(optimizer, load_file(self._file_of(max(rounds))))
        return True

    def keep_state(self, optimizer: torch.optim.Optimizer, round_number: int) -> None:
        """Write the state after a round."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with writing_beside(self._file_of(round_number)) as beside:
            save_file({name: value.cpu().contiguous() for name, value in flatten_state(optimizer).items()}, beside)
        for old in sorted(self._kept_rounds())[:-2]:
            self._file_of(old).unlink(missing_ok=True)

    def clear_rounds(self) -> None:
        """Forget all rounds."""
        for number in self._kept_rounds():
            self._file_of(number).unlink(missing_ok=True)

    def _file_of(self, round_number: int) -> Path:
        return kept_file(self._folder, round_number)

    def _kept_rounds(self) -> list[int]:
        return [int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.safetensors")]
