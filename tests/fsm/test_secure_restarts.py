"""The coordinator ends in each step of a secure round and starts again: the models are those of a calm run, and replay
computes them again from events and masked updates."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from secure_consortium import run_secure, start_secure
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import Journal
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages import kinds
from messages.bus.base import Body, Confirm
from messages.bus.confirm import Receipt
from messages.bus.memory import MemoryBus

STEPS = {
    "keys": "secure-keys",
    "shares": "secure-shares",
    "masked": "weights-ready",
    "consent": "secure-consent",
    "reveal": "secure-reveal",
}
LOST: set[str] = set()
"""Kinds of which the first event of site-c gets lost on its way."""


class LossyBus(MemoryBus):
    """A step stays open, since what one site says in it gets lost once; it says so again to the next coordinator."""

    def publish(self, key: str, body: Body) -> Confirm:
        kind, sender = key.split(".")[:2]
        if sender == "site-c" and kind in LOST:
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
