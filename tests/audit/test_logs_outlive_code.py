"""A log reads, recovers and replays although model, nets, words and rules of the code have changed since.

The old log is `data/state-58c5dea.zip` (see test_upgrade_in_mid_experiment); the others are of today.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain, received
from log_kit import changed, linked, old_state, problems, written
from machine_run import Run, in_phase
from pydantic import Field

from coordinator.core import admission, announce, machine
from coordinator.core import decisions as d
from coordinator.core.state import Phase
from coordinator.loop import file_checks
from coordinator.record.journal import open_readonly
from coordinator.record.recovery import read_step, recover_states
from messages import codec, experiment, kinds
from messages.chain import Entry
from messages.reasons import RETIRED, Reason
from nets import registry


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return old_state(tmp_path / "old")


@pytest.fixture
def fresh() -> list[Entry]:
    return written(in_phase(Phase.COMPLETE), Run(net={"name": "VNetX"}), Run(sites=["site-a", "site-x"]))


class Rounds(experiment.Rounds):
    """As a later version may have them: what was accepted once is refused."""

    count: int = Field(ge=1, le=1)


class Narrower(experiment.Experiment):
    rounds: Rounds


def change_the_code(patch: pytest.MonkeyPatch) -> None:
    """No net of today is known any more, the model is narrower, and every text is cut off early."""
    patch.setattr(admission, "MOST_WORDS", 10)
    patch.setattr(registry, "NETS", {})
    patch.setattr(experiment, "Experiment", Narrower)
    patch.setattr(file_checks, "Experiment", Narrower)
    patch.setattr(Narrower, "digest", lambda _self: "another way of hashing")


def test_an_old_log_replays_and_recovers_though_model_nets_and_words_have_changed(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recover_states(open_readonly(old))
    change_the_code(monkeypatch)
    assert problems(open_readonly(old)) == []
    after = recover_states(open_readonly(old))
    assert {name: state.phase for name, state in after.items()} == {name: state.phase for name, state in before.items()}
    assert after["exp-1"].experiment.rounds.count == before["exp-1"].experiment.rounds.count > 1
    assert [after[name].digest for name in after] == [before[name].digest for name in before]


def test_a_log_of_today_replays_though_model_nets_and_words_have_changed(
    fresh: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [one.reason for entry in fresh for one in read_step(entry)[1] if isinstance(one, d.StartRefused)]
    assert refused == [Reason.UNKNOWN_NET, Reason.UNKNOWN_SITE]
    change_the_code(monkeypatch)
    assert problems(fresh) == []


def test_a_log_of_the_first_release_says_less_and_replays(fresh: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    def as_then(body: dict[str, Any]) -> None:
        body.pop("logic")
        body.pop("file_check", None)
        for decision in body["decisions"]:
            if decision["decision"] == "site-joined":
                del decision["validation"], decision["test"]

    again = in_phase(Phase.RUNNING)
    again.wire(kinds.ExperimentStart(experiment=plain()), attempt=2)
    again.wire(kinds.ExperimentStart(experiment=plain(seed=4)), attempt=3)
    log = changed([*written(again), *written(Run(net={"name": "VNetX"}), Run(sites=["site-a", "site-x"]))], as_then)
    assert any("file_check" in codec.unpack(entry.body) for entry in written(again))
    change_the_code(monkeypatch)
    assert problems(log) == []


def test_a_digest_that_is_not_that_of_the_recorded_file_is_found_in_an_old_log(fresh: list[Entry]) -> None:
    def forged(body: dict[str, Any]) -> None:
        del body["logic"]
        body.pop("file_check", None)
        for one in body["decisions"]:
            if one["decision"] == "accepted":
                one["experiment"]["seed"] = 666

    assert problems(changed(fresh, forged))[0] == "the decisions do not follow from the input"


def test_words_for_people_are_not_compared_and_reasons_are(fresh: list[Entry]) -> None:
    def other(field: str, value: str) -> Callable[[dict[str, Any]], None]:
        def change(body: dict[str, Any]) -> None:
            for one in body["decisions"]:
                if one["decision"] == "start-refused":
                    one[field] = value

        return change

    assert problems(changed(fresh, other("mistakes", "as it was put in another year"))) == []
    assert problems(changed(fresh, other("reason", "experiment-expired")))


def test_a_field_that_an_old_record_lacks_means_its_default(fresh: list[Entry]) -> None:
    def without(body: dict[str, Any]) -> None:
        for one in body["decisions"]:
            if one["decision"] in ("initial-model", "round-completed"):
                del one["wire"]

    assert problems(changed(fresh, without)) == []


def test_the_file_that_runs_is_no_news_though_today_s_model_would_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    run = in_phase(Phase.RUNNING)
    assert run.state is not None
    change_the_code(monkeypatch)
    state = run.state

    def say(file: dict[str, Any]) -> tuple[d.AnyDecision, ...]:
        given = received("experiment-start", kinds.ExperimentStart(experiment=file), "dr-a", 2000.0, attempt=2)
        assert given.file_check is not None
        assert given.file_check.reason is Reason.INVALID_EXPERIMENT
        return machine.decide(state, given)

    assert [type(one) for one in say(dict(state.file))] == [d.Settled]
    refused = say(plain(seed=5))[0]
    assert isinstance(refused, d.StartRefused)
    assert refused.reason is Reason.ID_TAKEN


def test_sites_are_told_the_file_as_it_was_accepted_with_keys_that_are_no_more() -> None:
    def older(body: dict[str, Any]) -> None:
        for one in body["decisions"]:
            if one["decision"] == "accepted":
                one["experiment"]["gone"] = 1

    state = recover_states(changed(written(in_phase(Phase.RUNNING)), older))["exp-1"]
    told = announce.announce_accepted(state).body
    assert isinstance(told, kinds.ExperimentAccepted)
    assert told.experiment == state.experiment.as_plain() | {"gone": 1}
    assert told.digest == state.digest


def test_a_start_is_recorded_so_that_the_first_release_reads_it(fresh: list[Entry]) -> None:
    body = codec.unpack(fresh[0].body)
    assert set(body["input"]) == {"input", "time", "raw", "known", "admitted", "keep_cap"}
    assert set(body["decisions"][0]) == {
        "decision",
        "experiment",
        "digest",
        "researcher",
        "original",
        "time",
        "enrol_due",
        "keep_updates",
    }


@pytest.mark.parametrize("code", ["no-round-closed"])
def test_a_reason_that_is_no_longer_given_is_still_read(code: str) -> None:
    failed = d.Failed(time=1.0, reason=Reason.QUORUM_NOT_MET).model_dump() | {"reason": code}
    entries = written(in_phase(Phase.RUNNING))
    bodies = [(one.experiment, codec.unpack(one.body)) for one in entries]
    bodies[-1][1]["decisions"].append(failed)
    state = recover_states(linked(bodies))["exp-1"]
    assert (state.phase, state.reason) == (Phase.FAILED, code)
    assert state.reason in RETIRED
