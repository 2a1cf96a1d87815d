"""What waits for the broker's confirm is seen in `konsil site status`."""

from __future__ import annotations

from typing import Any

from deploy.site.orders import unconfirmed_words
from messages.bus.base import Pending
from site_agent.core.jobs import Agenda
from site_agent.desk.status import status_of


def shown(pending: Pending) -> dict[str, Any]:
    found = status_of(
        Agenda("site-a"),
        site="site-a",
        broker="connected",
        progress={},
        refusals={},
        waiting=0,
        pids={},
        used_bytes=0,
        bytes_down=0,
        bytes_up=0,
        pending=pending,
    )
    waits: dict[str, Any] = found["unconfirmed"]
    return waits


def test_an_alarm_is_shown_with_how_much_waits_and_since_when() -> None:
    line = unconfirmed_words(shown(Pending(messages=3, bytes=3_145_728, waited=41.6, blocked=True)))
    assert line == (
        "3,145,728 bytes in 3 messages not confirmed by the broker, the first for 42 s: "
        "it has raised an alarm (disk or memory) and takes nothing"
    )


def test_a_slow_line_is_shown_and_a_quick_one_is_not() -> None:
    assert unconfirmed_words(shown(Pending(1, 1_048_576, 12.0))) == (
        "1,048,576 bytes in 1 messages not confirmed by the broker, the first for 12 s"
    )
    assert unconfirmed_words(shown(Pending(1, 1_048_576, 0.2))) is None
    assert unconfirmed_words(shown(Pending(blocked=True))) is None
