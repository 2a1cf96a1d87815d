"""What a handler of the table is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from site_agent.core.decisions import (
    Decision,
)
from site_agent.core.inputs import (
    AnyInput,
)
from site_agent.core.jobs import Agenda, Job

Decisions = tuple[Decision, ...]

Handler = Callable[[Agenda, Job, AnyInput], Decisions]
"""What an input means for a job."""

Given = TypeVar("Given")


def handles(kind: type[Given]) -> Callable[[Callable[[Agenda, Job, Given], Decisions]], Handler]:
    """Makes a handler of one class of input fit into the table; TypeError where it is given another."""

    def fitted(handler: Callable[[Agenda, Job, Given], Decisions]) -> Handler:
        @wraps(handler)
        def handle(agenda: Agenda, job: Job, given: AnyInput) -> Decisions:
            if not isinstance(given, kind):
                raise TypeError(f"{type(given).__name__} goes to another handler than {handler.__name__}")
            return handler(agenda, job, given)

        return handle

    return fitted
