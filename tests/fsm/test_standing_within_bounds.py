"""What a site that returns is told is bounded, and in the end it is told all."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from coordinator_kit import CONSORTIUM
from machine_run import Run

from coordinator.core.state import ExperimentState, Standing
from coordinator.loop import returning
from coordinator.loop.returning import Returning
from coordinator.wire.announcer import Announcer
from coordinator.wire.last_heard import LastWord
from coordinator.wire.outgoing import Events, Models
from messages import envelope, kinds
from messages.envelope import Author
from messages.ground.clock import SystemClock
from messages.ground.logs import Complaints


class Heard:
    """What goes out, in place of the thread that publishes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def send_event(self, _key: str, raw: bytes) -> None:
        event = envelope.decode_event(raw)
        if isinstance(event.body, kinds.Standing):
            self.told.append(event.experiment)


def returning_with(states: dict[str, ExperimentState]) -> tuple[Returning, Heard]:
    clock, heard = SystemClock(), Heard()
    say = Announcer(Author(CONSORTIUM, "coordinator", 1, 1), cast(Events, heard), clock.now)
    complaints, models = Complaints(clock.monotonic), cast(Models, None)
    return Returning(states, say, models, clock, complaints, LastWord(lambda _key: None)), heard


def named(state: ExperimentState, name: str, **changes: float) -> ExperimentState:
    experiment = state.experiment.model_copy(update={"id": name})
    return replace(state, experiment=experiment, **changes)  # type: ignore[arg-type]


def many(ended: int) -> dict[str, ExperimentState]:
    """One experiment that is open, and ended ones: the one of the highest number ended last."""
    run = Run()
    assert run.state is not None
    states, now = {"open": named(run.state, "open")}, SystemClock().now()
    run.wire(kinds.ExperimentAbort())
    for n in range(ended):
        states[f"e{n:04d}"] = named(run.state, f"e{n:04d}", ended=now - 10.0 * (ended - n))
    return states


def test_of_many_that_ended_the_newest_are_told_and_the_others_in_turn() -> None:
    made, heard = returning_with(many(300))
    made.send_standing("site-a")
    most = 1 + returning.NEWEST_ENDED + returning.OLDER_ENDED
    assert len(heard.told) == most
    assert heard.told[:3] == ["open", "e0299", "e0298"]
    for _ in range(4):
        made._told_at.clear()
        made.send_standing("site-a")
    assert set(heard.told) == set(many(300))


def test_who_declined_is_not_told_how_it_ended() -> None:
    states = many(2)
    member = replace(states["e0001"].members["site-a"], standing=Standing.DECLINED)
    states["e0001"] = replace(states["e0001"], members={**states["e0001"].members, "site-a": member})
    made, heard = returning_with(states)
    made.send_standing("site-a")
    assert heard.told == ["open", "e0000"]


def test_an_answer_that_is_too_large_goes_on_as_its_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "MOST_STANDING", 1000)
    monkeypatch.setattr(returning, "STANDING_A_SECOND", 0)
    made, heard = returning_with(many(20))
    made.send_standing("site-a")
    first = len(heard.told)
    assert 0 < first < 5
    made.send_standing("site-a")  # says hello again meanwhile
    made.send_owed()
    assert len(heard.told) == first
    made._budget = returning.Allowances(SystemClock().monotonic, 10**9, 0)
    made.send_owed()
    assert heard.told[:21] == ["open", *(f"e{n:04d}" for n in reversed(range(20)))]
