"""Every step by its name. A step is added by a row here (`coordinator.core.steps.base`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from coordinator.core.state import Round, StepName
from coordinator.core.steps import scores, secure, statistics, updates
from coordinator.core.steps.base import StepRow

ROWS: dict[StepName, StepRow] = {row.name: row for row in (updates.ROW, scores.ROW, statistics.ROW, *secure.ROWS)}
STEPS: Mapping[StepName, StepRow] = MappingProxyType(ROWS)


def row_of(round_: Round) -> StepRow:
    """The row of the open step."""
    return STEPS[round_.step]
