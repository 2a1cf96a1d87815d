"""The coordinator's mark on uplink, which holds its timers back until it is read, does not hold them for ever."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, eventually
from coordinator_kit import broker
from coordinator_rig import coordinator
from structlog.testing import capture_logs

from coordinator.loop.timers import Gate
from coordinator.service import Coordinator
from messages.bus.base import BusState, Notice


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Coordinator, Gate]]:
    """A coordinator that runs and whose first mark came back, and its gate."""
    one = coordinator(broker(), folder)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        gate = one.shell.parts.gate
        eventually(lambda: not gate.closed, what="the first mark to come back")
        yield one, gate
    finally:
        one.stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_mark_that_was_confirmed_and_never_stored_is_published_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("coordinator.loop.shell.MARK_AGAIN", 0.2)
    with opened(tmp_path) as (_coordinator, gate):
        gate.close_with_mark()  # and nobody publishes it
        assert gate.closed
        eventually(lambda: not gate.closed, what="another mark")


def test_timers_stand_still_while_the_broker_takes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as (running, gate):
        running.shell.queue.put(Notice(BusState.BLOCKED))
        eventually(lambda: gate.closed, what="the timers to be held")
        running.shell.queue.put(Notice(BusState.UNBLOCKED))
        eventually(lambda: not gate.closed, what="the timers to go on")


def test_a_mark_that_the_broker_withholds_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with capture_logs() as lines, opened(tmp_path) as (one, gate):
        tally = one.shell.steps.tally
        monkeypatch.setattr("coordinator.loop.shell.MARK_MISSED", 0.2)
        monkeypatch.setattr(one.shell, "publish_mark", lambda: None)
        gate.close_with_mark()
        eventually(lambda: tally.mark_missing, what="it is named")
        (gauge,) = [reading for reading in one._read_figures() if reading.name == "konsil_mark_missing"]
        assert [value for _labels, value in gauge.samples] == [1.0]
        gate.read_mark(gate.nonce or "")
        eventually(lambda: not tally.mark_missing, what="it is over")
    assert sum("does not come back" in line["event"] for line in lines) == 1
