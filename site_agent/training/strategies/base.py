"""What a strategy asks of a site's training. The coordinator's half is `coordinator.work.strategies`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from messages.sections import Training
from site_agent.training.cases.sampling import Batch
from site_agent.training.tasks.base import Learner

Tensors = Mapping[str, torch.Tensor]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Leaves:
    """What a round leaves beside the net's weights.

    Attributes:
        beside: tensors that travel with the update, by name; in place of the net's own where one of those is named.
        kept: what the site keeps for its next round, by name.
    """

    beside: Arrays = field(default_factory=dict)
    kept: Tensors = field(default_factory=dict)


class LocalRule:
    """Plain local training, until a subclass says otherwise. One object serves a session's rounds, one at a time."""

    remembers = False
    """Whether it keeps something from round to round, beside tensors that do not travel."""

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        """A round begins.

        Args:
            net: holds the model that was received, where it will be trained.
            beside: what was received beside it.
            kept: what the site kept of its last round; nothing before the first one, or where it was lost.
        """

    def state(self) -> Tensors:
        """What the rest of the round follows from beside net and optimiser, where it lies: a checkpoint holds it."""
        return {}

    def fits_state(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether state of these names and shapes could be this rule's."""
        return {name: tuple(one.shape) for name, one in self.state().items()} == dict(shapes)

    def restore_state(self, tensors: Tensors) -> None:
        """Take state that fits."""
        mine = self.state()
        with torch.no_grad():
            for name, one in tensors.items():
                mine[name].copy_(one)

    def set_pace(self, settings: Training, rate: float, steps: int) -> None:
        """How the round that has begun is trained: the learning rate and the number of steps are this round's."""

    def extra_loss(self, images: torch.Tensor) -> torch.Tensor | None:
        """What a step's loss gets beside the task's, after `images` went through the net; None: nothing."""
        return None

    def adjust_gradients(self) -> None:
        """Change the gradients of a step, before they are clipped and the optimiser takes them."""

    def after_step(self, batches: Sequence[Batch], learner: Learner) -> None:
        """A step is done; its batches are still here."""

    def end_round(self, steps: int) -> Leaves:
        """The round is over after so many steps."""
        return Leaves()


PLAIN = LocalRule()


class ParametersRule(LocalRule):
    """Base of rules that change the gradients of what is trained."""

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        self.trained = {name: one for name, one in net.named_parameters() if one.requires_grad}

    def zeros_or(self, found: Mapping[str, Any], prefix: str) -> dict[str, torch.Tensor]:
        """By parameter, what was found under its name with a prefix, where the parameter lies; zeros else."""
        made = {}
        for name, one in self.trained.items():
            value = found.get(prefix + name)
            if value is None:
                made[name] = torch.zeros_like(one)
                continue
            tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            made[name] = tensor.to(device=one.device, dtype=one.dtype, copy=True)
        return made


class AnchoredRule(ParametersRule):
    """Base of rules that look back at the round's model."""

    def begin_round(self, net: torch.nn.Module, beside: Arrays, kept: Tensors) -> None:
        super().begin_round(net, beside, kept)
        self.anchors = {name: one.detach().clone() for name, one in self.trained.items()}
