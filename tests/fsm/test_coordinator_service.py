"""The whole coordinator in memory, with scripted sites and no torch."""

from __future__ import annotations

import numpy as np
import pytest
from coordinator_kit import SITES, config, plain
from coordinator_rig import Consortium, body_of

from coordinator.core.state import Phase
from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.service import Coordinator
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.ground.errors import NameTaken
from messages.reasons import Reason
from messages.tensors.layout import view_tensors


def test_three_sites_come_to_the_weighted_mean_and_the_replay_agrees(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"})))
    complete = body_of(consortium.until("experiment-complete"))
    ready = body_of(consortium.until("model-ready"))
    assert ready.model.model_dump() == complete.model.model_dump()
    rounds = [one.body for one in consortium.heard if one.kind == "round-complete"]
    assert [one.contributors for one in rounds if isinstance(one, kinds.RoundComplete)] == [
        {"site-a": 10, "site-b": 20, "site-c": 30}
    ] * 2
    consortium.stop()
    assert complete.model_round == 2
    assert complete.test is not None
    assert complete.test.mean_score("dice") == 0.25
    blobs = Blobs(consortium.folder / "blobs")
    manifest = complete.model.transfer.manifest
    final = view_tensors(manifest, blobs.open_blob("exp-1", complete.model.transfer.seal, manifest))
    gains = [ord(site[-1]) % 7 for site in SITES]
    mean = sum((n + 1) * gain for n, gain in enumerate(gains)) / 6
    expected = np.arange(1000).reshape(10, 100) + 2 * mean + 3
    np.testing.assert_allclose(final["conv.weight"], expected, rtol=1e-6)
    steps = list(replay(open_readonly(consortium.folder), blobs))
    assert [step.problem for step in steps if not step.agrees] == []
    checks = [step.aggregate for step in steps if step.aggregate is not None]
    assert [(one.round, one.status, one.agrees) for one in checks] == [
        (1, Status.RECOMPUTED, True),
        (2, Status.RECOMPUTED, True),
    ]


def test_a_coordinator_that_is_stopped_in_a_round_goes_on_in_it(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    held = consortium.sites[2]
    held.lost_chunks = {1, 2}
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"})))
    held.news.until(lambda: 1 in held.updates, "the update of site-c")
    consortium.stop()
    held.lost_chunks = set()
    second = consortium.start()
    assert second.journal.term == 2
    complete = body_of(consortium.until("experiment-complete"))
    assert complete.rounds == 2
    assert len({one.id for one in consortium.heard if one.kind == "round-start"}) == 2


def test_an_update_with_nan_is_refused_and_told_and_the_others_go_on(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()

    def nan(_number: int, buffer: bytearray) -> bytearray:
        buffer[:4] = np.float32("nan").tobytes()
        return buffer

    consortium.sites[0].spoil = nan
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    complete = consortium.until("round-complete").body
    assert isinstance(complete, kinds.RoundComplete)
    assert complete.left_out == {"site-a": Reason.NOT_FINITE_UPDATE}
    told = consortium.sites[0]
    told.news.until(lambda: told.refused, "a refusal")
    assert told.refused[0].reason is Reason.NOT_FINITE_UPDATE
    told.news.until(lambda: told.refused[0].event in told.receipts, "its receipt")


def test_an_update_that_is_not_what_was_sealed_is_asked_for_again_and_then_refused(
    consortium: Consortium,
) -> None:
    consortium.start()
    consortium.join()
    liar = consortium.sites[1]
    liar.spoil_seal = False
    liar.spoil = lambda _number, buffer: bytearray(len(buffer))
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    complete = consortium.until("round-complete").body
    assert isinstance(complete, kinds.RoundComplete)
    assert complete.left_out == {"site-b": Reason.WRONG_DIGEST}
    assert [one.kind for one in liar.heard if one.round == 1].count("chunks-wanted") == 2


def test_a_second_coordinator_on_the_same_journal_is_refused(consortium: Consortium) -> None:
    consortium.start()
    with pytest.raises(NameTaken, match="another coordinator"):
        Coordinator(config(consortium.folder), connect=lambda _c, n: MemoryBus(consortium.broker, "coordinator"))


def test_two_experiments_run_side_by_side(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    for name in ("exp-1", "exp-2"):
        body = kinds.ExperimentStart(experiment=plain(id=name))
        consortium.say("experiment-start", body, experiment=name)
    consortium.until("experiment-complete", 2)
    assert {name: state.phase for name, state in consortium.coordinator.shell.steps.states.items()} == {
        "exp-1": Phase.COMPLETE,
        "exp-2": Phase.COMPLETE,
    }


def test_rubbish_on_uplink_is_set_aside_and_the_service_lives(consortium: Consortium) -> None:
    consortium.start()
    bus = MemoryBus(consortium.broker, "site-a")
    bus.publish("joined.site-a.exp-1", b"\xff rubbish")
    bus.publish("joined.site-a.exp-1", b"")
    bus.close()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")
    consortium.stop()
    kinds_of_entries = [entry.type for entry in open_readonly(consortium.folder)]
    assert kinds_of_entries.count("set-aside") == 2
    assert all(step.agrees for step in replay(open_readonly(consortium.folder), None))
