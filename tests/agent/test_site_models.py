"""The whole agent and tensors: updates that leave, models that come whole, in parts, too early or damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import site_consortium as script
from agent_rig import Start, joined, through_rounds, training
from brokers import eventually

from messages.kinds import ChunksWanted
from messages.reasons import Reason
from messages.tensors.codecs import CodecName
from site_agent.service import Agent
from site_agent.training.null import round_addend


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16-difference"])
def test_an_update_leaves_in_the_experiments_codec(
    start: Start, coordinator: script.ScriptedCoordinator, codec: CodecName
) -> None:
    start()
    coordinator.codec = "bfloat16"
    coordinator.accept(script.experiment_file(wire={"codec": codec}))
    eventually(lambda: coordinator.of("joined"), what="joined")
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert ready.body.transfer.manifest.codec == codec
    assert ready.body.transfer.manifest.nbytes == 1500 * 2 + 3 * 8
    update = coordinator.update(ready)
    step = round_addend(
        7, "site-a", 1
    )  # a byte over 256: as a difference from 1 it needs 8 bits, and added to 1 it needs 9
    expected = step if codec == "bfloat16-difference" else np.rint((1 + step) * 128) / 128
    np.testing.assert_array_equal(update["w"], np.full(1500, expected))
    np.testing.assert_array_equal(update["b"], np.arange(3) + float(step))


def test_a_site_computes_the_digest_of_the_model_that_came_and_trains_no_other_than_the_round_names(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1, digest=coordinator.digest_of(2)[::-1])
    failed = eventually(lambda: coordinator.of("round-failed"), what="round-failed")[0]
    assert failed.body.reason == Reason.OTHER_CONTEXT
    coordinator.send_model(2)
    coordinator.start_round(2)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    assert (ready.round, ready.ext["model"]) == (2, coordinator.digest_of(2))


def test_missing_chunks_of_a_global_model_are_asked_for(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.receiver.FIRST_ASK", 0.2)
    running = start()
    joined(coordinator)
    coordinator.send_model(1, skip=(2, 4))
    whole = coordinator.sealed(1)[0].manifest.nbytes
    eventually(lambda: running.agent._receiver.bytes_down == whole - 2 * 1024, what="the others")
    coordinator.start_round(1)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert wanted.body.chunks == [2, 4]
    coordinator.send_model(1)
    assert eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")


@pytest.mark.parametrize("announced", [True, False])
def test_chunks_that_come_while_an_agent_takes_up_its_work_are_kept(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    first = start()
    joined(coordinator)
    if announced:
        coordinator.start_round(1)
        eventually(lambda: coordinator.of("round-accepted"), what="round-accepted")
    first.stop()
    coordinator.send_model(1)
    recover = Agent._recover_work

    def recover_late(agent: Agent) -> None:
        """Not before every chunk was looked at."""
        end = coordinator.bus.broker.count_messages("global") - 1  # type: ignore[attr-defined]
        eventually(lambda: (at := agent.spool.position_of("global")) and at.offset == end, what="the chunks")
        recover(agent)

    monkeypatch.setattr(Agent, "_recover_work", recover_late)
    start()
    if not announced:
        coordinator.start_round(1)
    assert eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")
    assert not coordinator.of("chunks-wanted")


def test_chunks_of_an_update_are_sent_again_when_wanted(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    coordinator.receipting = False
    start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    complete = coordinator.update(ready)
    (key,) = coordinator.chunks
    del coordinator.chunks[key][3]
    transfer = ready.body.transfer
    body = ChunksWanted(round=1, attempt=1, seal=transfer.seal, chunks=[3])
    coordinator.say("chunks-wanted", body, experiment="exp-1", round_number=1, to="site-a")
    eventually(lambda: 3 in coordinator.chunks[key], what="chunk 3")
    np.testing.assert_array_equal(coordinator.update(ready)["w"], complete["w"])


def test_an_update_that_the_broker_lost_after_it_had_confirmed_it_goes_again_whole(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.sender.MARK_EVERY", 0.0)
    coordinator.receipting = False
    start()
    joined(coordinator)
    coordinator.send_model(1)
    coordinator.start_round(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    transfer = ready.body.transfer
    coordinator.chunks.clear()
    body = ChunksWanted(round=1, attempt=1, seal=transfer.seal, chunks=None)
    coordinator.say("chunks-wanted", body, experiment="exp-1", round_number=1, to="site-a")
    whole = set(range(transfer.manifest.chunks))
    eventually(lambda: [set(one) for one in coordinator.chunks.values()] == [whole], what="all chunks again")
    coordinator.update(ready)


def test_both_candidates_are_scored_once_on_validation_and_test(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    coordinator.send_model(2)
    scored = eventually(lambda: coordinator.of("evaluated"), what="evaluated")[0]
    assert {label: one.model_digest for label, one in scored.body.scores.items()} == {
        "final": coordinator.digest_of(4),
        "selected": coordinator.digest_of(2),
    }
    test = scored.body.scores["final"].splits["test"]
    assert test.cases == 8
    assert test.metrics["dice"]["WT"].sum == pytest.approx(4.0)
    assert test.rows is None


def test_a_chosen_model_that_comes_before_the_evaluation_is_announced_is_not_asked_for(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.receiver.FIRST_ASK", 3600.0)  # nothing is late, however slow this machine is
    running = start()
    through_rounds(coordinator, 2, 3)
    eventually(lambda: running.ask("status")["state"] == "idle", what="idle")
    coordinator.send_model(4)
    coordinator.send_model(1)  # a model that another site asked for again: room is kept for one
    coordinator.send_model(2)
    parts = tmp_path / "state" / "globals"
    names = {"exp-1.2.coordinator.1.part", "exp-1.4.coordinator.1.part"}
    eventually(lambda: {path.name for path in parts.glob("*.part")} == names, what="both models, early")
    coordinator.start_evaluation(4, selected=2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")
    assert not coordinator.of("chunks-wanted")


def test_a_chosen_model_that_its_round_sent_in_a_codec_is_scored_from_its_exact_bytes(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.receiver.SOON", 0.2)
    monkeypatch.setattr("site_agent.wire.receiver.FIRST_ASK", 3600.0)
    start()
    coordinator.codec = "bfloat16"
    through_rounds(coordinator, 2)
    coordinator.codec, coordinator.attempts = "float32", {2: 2}
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert (wanted.body.round, wanted.body.attempt, wanted.body.seal) == (2, 2, coordinator.sealed(2)[0].seal)
    coordinator.send_model(2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")


def test_a_chosen_model_whose_chunks_came_too_early_is_asked_for_soon(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.receiver.FIRST_ASK", 3600.0)
    start()
    through_rounds(coordinator, 2, 3)
    coordinator.start_evaluation(4, selected=2)
    coordinator.send_model(4)
    wanted = eventually(lambda: coordinator.of("chunks-wanted"), what="chunks-wanted")[0]
    assert (wanted.body.round, wanted.body.chunks) == (2, None)
    coordinator.send_model(2)
    assert eventually(lambda: coordinator.of("evaluated"), what="evaluated")


def test_a_damaged_model_on_disk_is_fetched_again_after_a_restart(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.wire.receiver.FIRST_ASK", 0.2)
    first = start("--seconds", "600")
    training(coordinator, first)
    first.stop()
    (model,) = (tmp_path / "state" / "globals").iterdir()
    model.write_bytes(b"\xff" * model.stat().st_size)
    start()
    eventually(lambda: coordinator.of("chunks-wanted") or coordinator.of("weights-ready"), what="asking")
    coordinator.send_model(1)
    ready = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    np.testing.assert_array_equal(
        coordinator.update(ready)["w"], coordinator.model(1)["w"] + round_addend(7, "site-a", 1)
    )
