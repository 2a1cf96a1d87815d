"""`training.optimizer` and `training.schedule`: by which steps a net learns, and how long they are in each round."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from messages.ground.settings import Settings

_WHOLE = 2**31 - 1
_FORM_4: dict[str, Any] = {"json_schema_extra": {"form": 4}, "exclude_if": lambda value: value is None}
"""Of a key that came with form 4, and of which nothing is said where the file says nothing."""


class Optimizer(Settings):
    """torch's optimisers of these names; a key that is None has torch's default, in the words of its documentation."""

    name: Literal["Adam", "AdamW", "SGD", "NAdam", "RAdam", "RMSprop"] = "Adam"
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    reset: bool = True
    """Fresh moments each round (the thesis's choice); false keeps them at the site."""
    nesterov: bool | None = Field(None, **_FORM_4)
    """SGD only (Sutskever et al. 2013). None: where there is momentum."""
    beta1: float | None = Field(None, ge=0, lt=1, **_FORM_4)
    """All but SGD and RMSprop: of the first moment."""
    beta2: float | None = Field(None, ge=0, lt=1, **_FORM_4)
    """All but SGD: of the second moment; torch calls RMSprop's alpha."""
    epsilon: float | None = Field(None, gt=0, le=1, **_FORM_4)
    """All but SGD: what is added to the root of the second moment."""

    @model_validator(mode="after")
    def _keys_of_this_one(self) -> Self:
        strange = {"SGD": ("beta1", "beta2", "epsilon"), "RMSprop": ("nesterov", "beta1")}.get(self.name, ("nesterov",))
        if said := [key for key in strange if getattr(self, key) is not None]:
            raise ValueError(f'{said[0]} does not go with name = "{self.name}"')
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true needs a momentum above 0")
        return self

    @property
    def moments(self) -> int:
        """Tensors that it keeps beside each weight, at most."""
        return 1 if self.name in ("SGD", "RMSprop") else 2


class Schedule(Settings):
    """Learning rate over the rounds."""

    name: Literal["constant", "poly", "cosine", "step", "exponential"] = "constant"
    over: Literal["rounds"] = "rounds"
    power: float = Field(0.9, gt=0)
    warmup_rounds: int = Field(0, ge=0, le=_WHOLE)
    gamma: float | None = Field(None, gt=0, lt=1, **_FORM_4)
    """What the rate is multiplied by: in each round ("exponential"), or at each step ("step"; None: 0.1)."""
    every_rounds: int | None = Field(None, ge=1, le=_WHOLE, **_FORM_4)
    """ "step": the rate falls after so many rounds, and again after as many."""
    at_rounds: tuple[int, ...] | None = Field(None, min_length=1, max_length=100, **_FORM_4)
    """ "step": the rate falls with each of these rounds, from 1."""

    @model_validator(mode="after")
    def _keys_of_this_one(self) -> Self:
        if self.gamma is not None and self.name not in ("step", "exponential"):
            raise ValueError('gamma goes with name = "step" or "exponential"')
        if self.name == "exponential" and self.gamma is None:
            raise ValueError('name = "exponential" needs gamma: what each round multiplies the rate by')
        if self.name == "step" and (self.every_rounds is None) == (self.at_rounds is None):
            raise ValueError('name = "step" needs either every_rounds or at_rounds')
        if self.name != "step" and (self.every_rounds, self.at_rounds) != (None, None):
            raise ValueError('every_rounds and at_rounds go with name = "step"')
        if self.at_rounds is not None and (self.at_rounds[0] < 2 or list(self.at_rounds) != sorted({*self.at_rounds})):
            raise ValueError("at_rounds are numbers of rounds from 2 on, each larger than the one before it")
        return self

    def factor(self, round_number: int, rounds: int) -> float:
        """What the learning rate is multiplied by in a round (first is 1) of so many."""
        done = (round_number - 1) / max(rounds, 1)
        warm = min(1.0, round_number / (self.warmup_rounds + 1))
        if self.name == "poly":
            return float(warm * (1 - done) ** self.power)
        if self.name == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * done))
        if self.name == "constant":
            return warm
        return float(warm * (0.1 if self.gamma is None else self.gamma) ** self._count_falls(round_number))

    def _count_falls(self, round_number: int) -> int:
        """How often the rate has been multiplied by gamma before a round."""
        if self.at_rounds is not None:
            return sum(at <= round_number for at in self.at_rounds)
        return (round_number - 1) // (self.every_rounds or 1)
