"""Ditto (Li et al. 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", arXiv 2012.04221,
algorithm 1): the global model is trained and averaged as ever. Beside it the site trains a model of its own on the same
batches, with mu * (own - received) added to its gradient. It begins as the model of the site's first round, never
travels, and is what the site keeps. The optimiser is the experiment's, fresh in each round, in float32.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch

from messages.sections import Training
from nets.weights import arrays_of, load_weights
from site_agent.training import optimise
from site_agent.training.cases.sampling import Batch
from site_agent.training.strategies.base import AnchoredRule, Arrays, Leaves, Tensors
from site_agent.training.tasks.base import Learner, loss_of_outputs, weigh_batches

_NET, _OPTIMIZER = "net.", "optimizer."


class PersonalRule(AnchoredRule):
    """`mu` is the paper's lambda."""

    remembers = True

    def __init__(self, mu: float) -> None:
        self._mu = mu

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        super().begin_round(net, beside, kept)
        self._own = copy.deepcopy(net)
        if kept:
            load_weights(self._own, {name: one.numpy() for name, one in kept.items()})

    def set_pace(self, settings: Training, rate: float, steps: int) -> None:
        self._clip = settings.clip_norm
        self._optimizer = optimise.make_optimizer(settings.optimizer, self._own.parameters(), rate)

    def state(self) -> Tensors:
        found = {_NET + name: one.detach() for name, one in self._own.state_dict().items()}
        return found | {_OPTIMIZER + name: one for name, one in optimise.flatten_state(self._optimizer).items()}

    def fits_state(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        net = {name.removeprefix(_NET): one for name, one in shapes.items() if name.startswith(_NET)}
        rest = {name.removeprefix(_OPTIMIZER): one for name, one in shapes.items() if not name.startswith(_NET)}
        mine = {name: tuple(one.shape) for name, one in self._own.state_dict().items()}
        return net == mine and optimise.fits_state(self._optimizer, rest)

    def restore_state(self, tensors: Tensors) -> None:
        state = self._own.state_dict()
        with torch.no_grad():
            for name, one in state.items():
                one.copy_(tensors[_NET + name])
        moments = {name: one for name, one in tensors.items() if name.startswith(_OPTIMIZER)}
        optimise.load_state(self._optimizer, {name.removeprefix(_OPTIMIZER): one for name, one in moments.items()})

    def after_step(self, batches: Sequence[Batch], learner: Learner) -> None:
        self._own.train()
        self._optimizer.zero_grad(set_to_none=True)
        for (images, labels), share in weigh_batches(batches):
            (loss_of_outputs(learner, self._own(images), labels) * share).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, one in self._own.named_parameters():
                if one.grad is not None:
                    one.grad.add_(one - self.anchors[name], alpha=self._mu)
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._own.parameters(), self._clip)
        self._optimizer.step()

    def end_round(self, steps: int) -> Leaves:
        return Leaves(kept={name: torch.from_numpy(one) for name, one in arrays_of(self._own).items()})
