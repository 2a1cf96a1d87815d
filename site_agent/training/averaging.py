"""An exponential mean of the weights over a round's steps (Polyak and Juditsky 1992; as `training.ema` asks for it)."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class WeightAverage:
    """The mean of everything in a net that is no counter: weights, and the running statistics of batch norms.

    It begins with the net as the round received it. After each step it is decay x mean + (1 - decay) x net.
    """

    def __init__(self, net: torch.nn.Module, decay: float | None) -> None:
        """`decay` None: there is no mean, and the net stays as the last step left it."""
        self._net = net
        self._share = 0.0 if decay is None else 1 - decay
        state = {} if decay is None else net.state_dict()
        self._means = {name: one.detach().clone() for name, one in state.items() if one.is_floating_point()}

    def state(self) -> Mapping[str, torch.Tensor]:
        """The mean so far, where it lies: a checkpoint holds it."""
        return self._means

    @torch.no_grad()
    def take_step(self) -> None:
        """A step is done."""
        if self._means:
            state = self._net.state_dict()
            for name, mean in self._means.items():
                mean.lerp_(state[name], self._share)

    @torch.no_grad()
    def leave_mean(self) -> None:
        """The round is over: the net becomes the mean."""
        state = self._net.state_dict()
        for name, mean in self._means.items():
            state[name].copy_(mean)
