"""A journal that the first released form wrote (commit 58c5dea) still replays, recovers, and goes on to the same bits.

`data/state-58c5dea.zip` is a coordinator's state folder as that commit's own code left it when it was stopped:
`exp-done` is complete, `exp-1` is the same experiment in round 2, where the update of site-c lacks two chunks. Both
were run by that commit's scripted sites (tests/coordinator_kit.py) in memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from coordinator_kit import SITES
from coordinator_rig import Consortium, body_of

from coordinator.core.state import Phase
from coordinator.record.journal import open_readonly
from coordinator.record.recovery import recover_states
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs

OLD = Path(__file__).parent / "data" / "state-58c5dea.zip"
DIGEST = "63e4ea8a024f99bb1bc4036085132b99c117e682437c4b13f61400d499fd0471"
"""Of the model that `exp-done` yielded under 58c5dea."""


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Consortium]:
    with zipfile.ZipFile(OLD) as state:
        state.extractall(tmp_path)
    made = Consortium(tmp_path)
    yield made
    made.close()


def test_every_entry_of_the_old_journal_replays_and_its_aggregates_are_recomputed(upgraded: Consortium) -> None:
    steps = list(replay(open_readonly(upgraded.folder), Blobs(upgraded.folder / "blobs")))
    assert len(steps) == 55
    assert [step.problem for step in steps if not step.agrees] == []
    checks = [step.aggregate for step in steps if step.aggregate is not None]
    assert [(one.round, one.status) for one in checks] == [(n, Status.RECOMPUTED) for n in (1, 2, 1)]


def test_the_old_journal_recovers_to_where_it_was(upgraded: Consortium) -> None:
    states = recover_states(open_readonly(upgraded.folder))
    assert states["exp-done"].phase is Phase.COMPLETE
    running = states["exp-1"]
    assert running.phase is Phase.RUNNING
    assert running.round is not None
    assert running.round.number == 2
    assert running.round.reported == ("site-a", "site-b")
    assert running.models[2].wire is None


def test_the_upgraded_coordinator_ends_the_old_experiment_with_the_same_bits(upgraded: Consortium) -> None:
    upgraded.start()
    upgraded.join()
    upgraded.until("experiment-complete", 2)  # the one that was complete is told again
    complete = next(one for one in upgraded.heard if one.kind == "experiment-complete" and one.experiment == "exp-1")
    assert body_of(complete).final_digest == DIGEST
    rounds = [one for one in upgraded.heard if one.kind == "round-complete" and one.experiment == "exp-1"]
    assert {one.round: sorted(one.body.contributors) for one in rounds} == {1: [*SITES], 2: [*SITES]}  # 1 told again
    upgraded.stop()
    steps = list(replay(open_readonly(upgraded.folder), Blobs(upgraded.folder / "blobs")))
    assert [step.problem for step in steps if not step.agrees] == []
