"""docs/machines.md is what the transition tables say."""

from __future__ import annotations

import machines
import pytest

from coordinator.core import machine
from messages.reasons import Reason
from site_agent.core import agenda

HANDLERS = {
    rule for table in (machine.TABLE, agenda.TABLE) for rule in table.values() if not isinstance(rule, Reason)
} | {rule for rule in machine.PAUSED.values() if not isinstance(rule, Reason)}


def test_the_page_is_drawn_from_the_tables_as_they_are() -> None:
    assert machines.PAGE.read_text() == machines.draw_page(), "run: python -m tests.machines"


@pytest.mark.parametrize("handler", sorted(HANDLERS, key=lambda one: one.__name__), ids=lambda one: one.__name__)
def test_each_handler_says_what_it_is_triggered_by_and_what_it_records(handler: object) -> None:
    words = (handler.__doc__ or "").split(".")[0]
    assert len(words) > 10
