"""A good log replays; a changed one is found, at whatever byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_kit import SITES
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core.machine import decide
from coordinator.core.state import Phase
from coordinator.record.journal import STEP, Journal, open_readonly
from coordinator.record.recovery import read_step, recover_states, step_body
from coordinator.record.replay import Status, replay
from messages import chain, codec
from messages.chain import Entry
from messages.ground.errors import LogBroken, MalformedMessage


class Journaled(Run):
    """A run whose steps are journaled."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder)
        super().__init__()

    def put(self, given):
        decided = super().put(given)
        if decided:
            self.journal.append_entry("exp-1", STEP, step_body(given, decided), time=given.time)
        return decided


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    folder = tmp_path_factory.mktemp("journal")
    run = Journaled(folder)
    run.join()
    run.initial()
    for number in (1, 2):
        for site in SITES:
            run.report(site, number)
        run.aggregated(number)
    for site in SITES:
        run.evaluated(site)
    run.journal.close()
    return list(open_readonly(folder))


def test_a_good_log_replays_and_tells_its_story(log: list[Entry]) -> None:
    steps = list(replay(log))
    assert all(step.agrees for step in steps)
    assert [step.aggregate.status for step in steps if step.aggregate] == [Status.DIGEST_ONLY] * 2
    assert any("round 1 closes with site-a (10), site-b (10), site-c (10)" in step.what for step in steps)
    first = next(step.aggregate for step in steps if step.aggregate is not None)
    assert (first.round, first.contributors) == (1, {"site-a": 10, "site-b": 10, "site-c": 10})
    assert any(f"round 1 made model {first.model_digest[:12]}" in step.what for step in steps)
    assert recover_states(log)["exp-1"].phase is Phase.COMPLETE


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_found_at_any_place(log: list[Entry], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(log) - 1))
    encoded = bytearray(log[number].encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises((LogBroken, MalformedMessage)):  # noqa: PT012  (reading or verifying finds it)
        changed = chain.decode_entry(bytes(encoded))
        list(replay([*log[:number], changed, *log[number + 1 :]]))


def test_a_decision_that_does_not_follow_is_named_even_where_the_chain_was_made_anew(
    log: list[Entry],
) -> None:
    forged: list[Entry] = []
    for entry in log:
        given_, decided = read_step(entry)
        lied = tuple(
            one.model_copy(update={"contributors": {"site-a": 10}}) if isinstance(one, d.RoundClosed) else one
            for one in decided
        )
        before = forged[-1].hash if forged else chain.ZERO
        body = codec.pack(step_body(given_, lied))
        forged.append(replace(entry, body=body, previous=before, before=before).with_hash())
    wrong = [step for step in replay(forged) if not step.agrees]
    assert wrong
    assert wrong[0].problem == "the decisions do not follow from the input"


def test_an_experiment_alone_is_told_by_its_own_entries(log: list[Entry]) -> None:
    state = recover_states(log[:4])["exp-1"]
    assert state.joined == SITES
    assert decide(None, read_step(log[0])[0])[0].decision == "accepted"
