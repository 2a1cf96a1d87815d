"""A site's readers leave out what is not the coordinator's: downlink, its inbox, global models."""

from __future__ import annotations

from typing import Any

import site_consortium as script
from agent_rig import Start, joined
from astray import forge_chunk, plant_message
from brokers import eventually

from messages import names
from messages.bus.memory import MemoryBroker
from messages.envelope import Author
from messages.kinds import CoordinatorHello, Receipt, RoundFailed
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey


def test_events_of_others_on_downlink_and_in_its_inbox_are_refused(
    broker: MemoryBroker, coordinator: script.ScriptedCoordinator, start: Start
) -> None:
    running = start()
    joined(coordinator)
    for queue in (names.DOWNLINK, names.inbox_of("site-a")):
        forged: dict[str, Any] = {"time": 1e12, "attempt": queue}
        as_coordinator = Author(script.CONSORTIUM, "coordinator", 9, 9)
        said = as_coordinator.write_event("coordinator-hello", CoordinatorHello(versions={}), **forged)
        receipt = as_coordinator.write_event("receipt", Receipt(events=["0" * 32]), **forged)
        own = Author(script.CONSORTIUM, "site-b", 1).write_event(
            "round-failed", RoundFailed(reason=Reason.TRAINING_ERROR), **forged
        )
        for event in (said, receipt, own):
            for key in (event.key, "hello.site-b.none"):
                plant_message(broker, queue, key, event.raw, "site-b")
    eventually(lambda: len(running.ask("status")["refused_messages"]) > 0, what="a refusal")
    # what a site says in its own name is well-formed, and still not the coordinator's
    eventually(lambda: running.ask("status")["refused_messages"] == {"sender-mismatch": 12}, what="all to be refused")
    coordinator.send_model(1)
    coordinator.start_round(1)  # of term 1: the forged term was not believed
    eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_chunks_of_others_among_those_of_a_global_model_are_refused(
    broker: MemoryBroker, coordinator: script.ScriptedCoordinator, start: Start
) -> None:
    start()
    joined(coordinator)
    sealed = coordinator.sealed(1)[0]
    key = TransferKey("exp-1", 1, "coordinator", sealed.attempt)

    def spoil() -> None:
        for index in range(sealed.manifest.chunks):
            chunk = forge_chunk(key, index, sealed.manifest.chunk_bytes, sealed.manifest.nbytes)
            plant_message(broker, names.GLOBAL, "global-chunk.coordinator.exp-1", chunk, "site-b")
            plant_message(broker, names.GLOBAL, "global-chunk.site-b.exp-1", b"rubbish", "site-b")

    spoil()
    coordinator.send_model(1)
    spoil()
    coordinator.start_round(1)
    eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    assert not coordinator.of("chunks-wanted"), "nothing of the model had to be asked for again"
