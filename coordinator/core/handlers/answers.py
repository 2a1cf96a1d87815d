"""What a handler of the table is, and what several of them answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState
from coordinator.core.steps.base import Answer, Decided
from messages.reasons import Reason

Handler = Callable[[ExperimentState, i.Input], Answer]
"""What a kind of input means in a state: decisions, or a reason to refuse it."""

Given = TypeVar("Given", bound=i.Input)


def handles(kind: type[Given]) -> Callable[[Callable[[ExperimentState, Given], Answer]], Handler]:
    """Makes a handler of one class of input fit into the table; TypeError where it is given another."""

    def fitted(handler: Callable[[ExperimentState, Given], Answer]) -> Handler:
        @wraps(handler)
        def handle(state: ExperimentState, given: i.Input) -> Answer:
            if not isinstance(given, kind):
                raise TypeError(f"{type(given).__name__} goes to another handler than {handler.__name__}")
            return handler(state, given)

        return handle

    return fitted


def paused_by(state: ExperimentState, now: float, reason: Reason | None) -> d.Paused:
    """A pause, with what is left on each timer."""
    return d.Paused(reason=reason, remaining={name: max(0.0, due - now) for name, due in state.timers.items()})


def receipts_left(state: ExperimentState) -> Decided:
    """Receipts for updates that are under way when an experiment ends: nobody will ask for them any more."""
    if state.round is None:
        return ()
    return tuple(
        d.Settled(event=part.update.event, sender=site)
        for site, part in sorted(state.round.parts.items())
        if part.update is not None and not part.stored
    )
