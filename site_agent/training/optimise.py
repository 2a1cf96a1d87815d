"""Optimisers, and keeping their state between rounds (`optimizer.reset = false`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from messages.tasks.optimisers import Optimizer
from site_agent.training.resuming.kept import KeptTensors

_BY_MOMENTS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
}


def make_optimizer(settings: Optimizer, parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """A fresh optimiser."""
    decay = settings.weight_decay
    if settings.name == "SGD":
        nesterov = settings.momentum > 0 if settings.nesterov is None else settings.nesterov
        return torch.optim.SGD(parameters, lr, momentum=settings.momentum, nesterov=nesterov, weight_decay=decay)
    beta2 = 0.999 if settings.beta2 is None else settings.beta2
    epsilon = 1e-8 if settings.epsilon is None else settings.epsilon
    if settings.name == "RMSprop":
        alpha = 0.99 if settings.beta2 is None else settings.beta2
        return torch.optim.RMSprop(parameters, lr, alpha=alpha, eps=epsilon, weight_decay=decay)
    betas = (0.9 if settings.beta1 is None else settings.beta1, beta2)
    return _BY_MOMENTS[settings.name](parameters, lr, betas=betas, eps=epsilon, weight_decay=decay)


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


class KeptState(KeptTensors):
    """An experiment's optimiser state at this site."""

    def restore_state(self, optimizer: torch.optim.Optimizer, before_round: int) -> bool:
        """Load the newest state of an earlier round; False where there is none."""
        found = self.read_before(before_round)
        if found is None:
            return False
        load_state(optimizer, found)
        return True

    def keep_state(self, optimizer: torch.optim.Optimizer, round_number: int) -> None:
        """Write the state after a round."""
        self.write_round(flatten_state(optimizer), round_number)
