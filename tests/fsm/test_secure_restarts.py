"""The coordinator ends in each step of a secure round and starts again: the models are those of a calm run, and replay
computes them again from events and masked updates."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from secure_consortium import ROUNDS, run_secure, secure_file, start_secure
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import Journal
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.bus.base import Body, Confirm
from messages.bus.confirm import Receipt
from messages.bus.memory import MemoryBus
from messages.reasons import Reason

STEPS = {
    "keys": "secure-keys",
    "shares": "secure-shares",
    "masked": "weights-ready",
    "consent": "secure-consent",
    "reveal": "secure-reveal",
}
LOST: set[str] = set()
"""Kinds of which the first event of site-c gets lost on its way."""
MUTED: set[str] = set()
"""Kinds of which every event of site-c gets lost."""


class LossyBus(MemoryBus):
    """A step stays open, since what one site says in it gets lost once; it says so again to the next coordinator."""

    def publish(self, key: str, body: Body) -> Confirm:
        kind, sender = key.split(".")[:2]
        to_c = key.endswith(".site-c") and kind == "secure-mail"
        if (sender == "site-c" or to_c) and kind in LOST | MUTED:
            LOST.discard(kind)
            lost = Receipt(threading.Event())
            lost.settle()
            return lost
        return super().publish(key, body)


def digests_of(consortium: VirtualConsortium) -> list[str]:
    """Of the models that the rounds made."""
    rounds = [one.body for _at, one in consortium.of("round-complete")]
    return [one.model_digest for one in rounds if isinstance(one, kinds.RoundComplete)]


def finish(consortium: VirtualConsortium) -> None:
    start_secure(consortium)
    consortium.until("experiment-complete", 7200.0)


def end_in_each_step(consortium: VirtualConsortium) -> None:
    LOST.update(STEPS.values())
    start_secure(consortium)
    for step in STEPS:

        def is_open(step: str = step) -> bool:
            state = consortium.coordinator.shell.steps.states.get("exp-1")
            return (
                state is not None
                and state.round is not None
                and (state.round.step, len(state.round.reported)) == (step, 2)
            )

        assert consortium.clock.wait_until(is_open, 600.0), step
        consortium.start_coordinator_again()
    consortium.until("experiment-complete", 7200.0)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> VirtualConsortium:
    return run_secure(tmp_path_factory.mktemp("ended"), end_in_each_step, join=LossyBus)


def test_a_coordinator_that_ends_in_each_step_makes_the_models_of_a_calm_run(
    tmp_path: Path, ended: VirtualConsortium
) -> None:
    calm = run_secure(tmp_path, finish)
    assert digests_of(ended) == digests_of(calm)
    assert len(digests_of(calm)) == 2
    assert not ended.of("round-void")
    assert len(ended.of("round-start")) == 2, "no try was lost"


def test_replay_computes_secure_rounds_again_from_events_and_masked_updates(ended: VirtualConsortium) -> None:
    state = ended.folder / "coordinator"
    journal = Journal(state)
    try:
        steps = list(replay(journal.entries(), Blobs(state / "blobs")))
    finally:
        journal.close()
    assert [step.problem for step in steps if not step.agrees] == []
    checks = [step.aggregate for step in steps if step.aggregate is not None]
    assert [(one.round, one.status) for one in checks] == [(1, Status.RECOMPUTED), (2, Status.RECOMPUTED)]


def tries_of(consortium: VirtualConsortium) -> list[tuple[int, int]]:
    """Round and try of each opening."""
    starts = [one for _at, one in consortium.of("round-start")]
    return [
        (one.round, one.body.secure.tried)
        for one in starts
        if isinstance(one.body, kinds.RoundStart) and one.body.secure
    ]


def test_another_try_with_new_keys_trains_nothing_again_and_makes_the_same_models(
    tmp_path: Path, ended: VirtualConsortium
) -> None:
    def work(consortium: VirtualConsortium) -> None:
        MUTED.add("secure-shares")
        start_secure(consortium)
        assert consortium.clock.wait_until(lambda: (1, 2) in tries_of(consortium), 600.0)
        MUTED.clear()
        consortium.until("experiment-complete", 7200.0)

    again = run_secure(tmp_path, work, join=LossyBus)
    assert tries_of(again) == [(1, 1), (1, 2), (2, 1)]
    assert digests_of(again) == digests_of(ended)


def test_three_rounds_without_a_sum_are_void_one_by_one_and_end_the_experiment(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        MUTED.add("secure-consent")
        try:
            start_secure(consortium, rounds={**ROUNDS, "count": 5, "at_deadline": "fail"})
            consortium.until("experiment-failed", 7200.0)
        finally:
            MUTED.clear()

    failed = run_secure(tmp_path, work, join=LossyBus)
    void = [one.body for _at, one in failed.of("round-void")]
    assert [one.reason for one in void if isinstance(one, kinds.RoundVoid)] == [Reason.QUORUM_NOT_MET] * 3
    assert len({one.model_digest for one in void if isinstance(one, kinds.RoundVoid)}) == 1, "the model goes on"
    (end,) = [one.body for _at, one in failed.of("experiment-failed")]
    assert isinstance(end, kinds.ExperimentFailed)
    assert end.reason is Reason.ROUND_VOID


def test_mail_that_gets_lost_comes_again_when_its_site_says_hello(tmp_path: Path, ended: VirtualConsortium) -> None:
    def work(consortium: VirtualConsortium) -> None:
        LOST.add("secure-mail")
        start_secure(consortium)

        def masks() -> bool:
            state = consortium.coordinator.shell.steps.states.get("exp-1")
            return state is not None and state.round is not None and state.round.step == "masked"

        assert consortium.clock.wait_until(masks, 600.0)
        assert consortium.clock.wait_until(lambda: not LOST, 60.0)
        consortium.agents["site-c"].stop()
        assert consortium.clock.wait_until(lambda: not consortium.lives("site-c"), 60.0)
        consortium.start_again("site-c")
        consortium.until("experiment-complete", 7200.0)

    again = run_secure(tmp_path, work, join=LossyBus)
    assert digests_of(again) == digests_of(ended)


def test_a_model_is_evaluated_alone_with_pooled_scores_only(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        finish(consortium)
        net = {"name": "UNet", "channels": [4, 8], "strides": [2], "from": "exp-1"}
        file = secure_file(id="exp-2", plan={"kind": "evaluation"}, net=net, rounds={**ROUNDS, "count": 0})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=file), experiment="exp-2")
        both = consortium.clock.wait_until(lambda: len(consortium.of("experiment-complete")) == 2, 7200.0)
        assert both, [one.kind for _at, one in consortium.heard if one.experiment == "exp-2"]

    scored = run_secure(tmp_path, work)
    body = scored.of("experiment-complete")[-1][1].body
    assert isinstance(body, kinds.ExperimentComplete)
    assert body.test is not None
    assert body.test.cases == 36
