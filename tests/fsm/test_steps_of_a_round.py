"""A round of two steps, and rounds that go from site to site: killed behind each thing that either side stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rehearsal
from coordinator_kit import SITES, plain
from whole_rig import COORDINATOR, Federation, everywhere

from coordinator.core import decisions as d
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP, open_readonly
from coordinator.record.recovery import read_step, recover_states
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.reasons import Reason

ROUNDS = {"enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
TWO = plain(sites=list(SITES[:2]), rounds={"count": 2, **ROUNDS}, quorum={"least_sites": "all"})
CYCLES = plain(plan={"kind": "sequential"}, rounds={"count": 4, **ROUNDS}, quorum={"least_sites": "all"})


def run(federation: Federation, experiment: dict[str, Any]) -> kinds.ExperimentComplete:
    federation.start()
    federation.publish(experiment)
    body = federation.until("experiment-complete").body
    assert isinstance(body, kinds.ExperimentComplete)
    return body


def ended(federation: Federation) -> ExperimentState:
    """Recovered from the journal, which replays to the bit."""
    folder = federation.folder / COORDINATOR
    replayed = list(replay(open_readonly(folder), Blobs(folder / "blobs")))
    assert [step.problem for step in replayed if not step.agrees] == []
    made = [step.aggregate.status for step in replayed if step.aggregate is not None]
    assert made
    assert set(made) == {Status.RECOMPUTED}
    return recover_states(open_readonly(folder))["exp-1"]


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    made = Federation(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """Two sites whose rounds have the rehearsal, too."""
    rehearsal.register(monkeypatch)
    made = Federation(tmp_path, monkeypatch, SITES[:2])
    yield made
    made.close()


def test_a_round_goes_through_its_steps_and_each_site_answers_each(pair: Federation) -> None:
    complete = run(pair, TWO)
    assert complete.rounds == 2
    opened = [(one.kind, one.round, one.attempt) for one in pair.heard if one.kind.endswith("-start")]
    assert list(dict.fromkeys(opened)) == [
        ("rehearsal-start", 1, "1"), ("round-start", 1, "2"),
        ("rehearsal-start", 2, "1"), ("round-start", 2, "2"),
        ("evaluation-start", 3, "1"),
    ]  # fmt: skip
    pair.close()
    ended(pair)


def test_what_an_earlier_step_brought_is_there_in_the_next(pair: Federation) -> None:
    run(pair, TWO)
    pair.close()
    entries = list(open_readonly(pair.folder / COORDINATOR))
    states = [recover_states(entries[:number]).get("exp-1") for number in range(1, len(entries) + 1)]
    rounds = [one.round for one in states if one is not None and one.round is not None]
    training = [one for one in rounds if one.step == "updates" and one.number == 2]
    words = {site: part.answer for site, part in training[0].earlier[rehearsal.REHEARSAL].items()}
    assert words == {site: {"word": "round-2"} for site in SITES[:2]}


def test_a_round_of_two_steps_ends_with_the_same_bits_when_all_are_killed_at_each_step(
    pair: Federation, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.kill = everywhere
    killed = run(pair, TWO)
    assert pair.kills > 30
    pair.close()
    ended(pair)
    calm = Federation(tmp_path_factory.mktemp("calm"), monkeypatch, SITES[:2])
    try:
        assert run(calm, TWO).final_digest == killed.final_digest
    finally:
        calm.close()


def visits(federation: Federation) -> list[tuple[list[str], dict[str, Reason]]]:
    """Of each round: who contributed, who was left out."""
    steps = [entry for entry in open_readonly(federation.folder / COORDINATOR) if entry.type == STEP]
    decided = [one for entry in steps for one in read_step(entry)[1]]
    return [(sorted(one.contributors), one.left_out) for one in decided if isinstance(one, d.RoundCompleted)]


ONE_AFTER_THE_OTHER = [(["site-a"], {}), (["site-b"], {}), (["site-c"], {}), (["site-a"], {})]


def test_the_model_goes_from_site_to_site_and_nobody_is_left_out(federation: Federation) -> None:
    run(federation, CYCLES)
    federation.close()
    assert visits(federation) == ONE_AFTER_THE_OTHER
    assert ended(federation).turns == ("site-a",)
    for site in SITES:
        assert not list((federation.folder / site).rglob("*.model")), "models of others' visits are kept"


def test_a_sequential_experiment_ends_with_the_same_bits_when_all_are_killed_at_each_step(
    federation: Federation, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.kill = everywhere
    killed = run(federation, CYCLES)
    assert federation.kills > 40
    federation.close()
    assert visits(federation) == ONE_AFTER_THE_OTHER
    ended(federation)
    calm = Federation(tmp_path_factory.mktemp("calm"), monkeypatch)
    try:
        assert run(calm, CYCLES).final_digest == killed.final_digest
    finally:
        calm.close()
