"""Optimisers, and keeping their state between rounds (`optimizer.reset = false`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from messages.experiment import Optimizer


def make(settings: Optimizer, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser."""
    decay = settings.weight_decay
    if settings.name == "SGD":
        return torch.optim.SGD(
            parameters, lr, momentum=settings.momentum, nesterov=settings.momentum > 0, weight_decay=decay
        )
    kind = torch.optim.AdamW if settings.name == "AdamW" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)


class KeptState:
    """An experiment's optimiser state at this site, by round, without pickle.

    The state after a round is written under that round's number and the two newest are kept, so that training a
    round again starts from the state before it and gives the same bits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def restore(self, optimizer: torch.optim.Optimizer, before_round: int) -> bool:
        """Load the newest state of an earlier round; False where there is none."""
        rounds = [number for number in self._rounds() if number < before_round]
        if not rounds:
            return False
        flat = load_file(self._file(max(rounds)))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in flat.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return True

    def keep(self, optimizer: torch.optim.Optimizer, round_number: int) -> None:
        """Write the state after a round."""
        self._folder.mkdir(parents=True, exist_ok=True)
        flat = {
            f"{index}.{key}": value.detach().cpu().contiguous()
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
            if isinstance(value, torch.Tensor)
        }
        beside = self._file(round_number).with_suffix(".part")
        save_file(flat, beside)
        beside.replace(self._file(round_number))
        for old in sorted(self._rounds())[:-2]:
            self._file(old).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all rounds."""
        for number in self._rounds():
            self._file(number).unlink(missing_ok=True)

    def _file(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:06d}.safetensors"

    def _rounds(self) -> list[int]:
        return [int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.safetensors")]
