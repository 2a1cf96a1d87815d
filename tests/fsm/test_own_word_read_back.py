"""What the coordinator alone can publish again is missed by it, and filled again; also if it was away meanwhile."""

from __future__ import annotations

import pytest
from brokers import eventually
from coordinator_kit import plain
from coordinator_rig import Consortium, running

from coordinator.record.journal import open_readonly
from coordinator.wire.reading_back import OWN_WORD
from messages import kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.chain import decode_entry
from messages.envelope import decode_event
from messages.names import AUDIT, COORDINATOR, DOWNLINK, MODELS, UPLINK


@pytest.fixture
def older(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    """A consortium whose broker has the definitions of a version that read nothing back."""
    may_read = consortium.broker.grants.may_read
    monkeypatch.setattr(
        consortium.broker.grants,
        "may_read",
        lambda user, queue: not (user == COORDINATOR and queue in OWN_WORD) and may_read(user, queue),
    )
    return consortium


@pytest.fixture
def complete(consortium: Consortium) -> Consortium:
    """A consortium whose experiment is over."""
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("model-ready")
    eventually(lambda: held(consortium, AUDIT) == journaled(consortium), what="the whole event log")
    journal = running(consortium).journal
    eventually(lambda: all(journal.position_of(queue) for queue in OWN_WORD), what="positions to be stored")
    return consortium


def read(consortium: Consortium, queue: str) -> list[Delivery]:
    """Everything that a stream holds."""
    found: list[Delivery] = []
    reader = MemoryBus(consortium.broker, "dr-a")
    try:
        reader.subscribe(queue, found.append, credit=10_000)
        eventually(lambda: len(found) >= consortium.broker.count_messages(queue), what=f"all of {queue}")
        return list(found)
    finally:
        reader.close()


def held(consortium: Consortium, queue: str) -> set[object]:
    """What the stream holds, told apart as its readers do: entries by number, events by kind, chunks by their bytes."""
    if queue == AUDIT:
        return {decode_entry(one.body).number for one in read(consortium, queue)}
    chunks = {one.body for one in read(consortium, queue) if one.key.startswith("model-chunk")}
    events = [decode_event(one.body) for one in read(consortium, queue) if not one.key.startswith("model-chunk")]
    return chunks | {(one.kind, one.id) for one in events if kinds.KINDS[one.kind].history or one.kind == "model-ready"}


def journaled(consortium: Consortium) -> set[object]:
    return {entry.number for entry in open_readonly(consortium.folder)}


def ended(consortium: Consortium) -> set[object]:
    return {found for found in held(consortium, DOWNLINK) if isinstance(found, tuple) and "complete" in found[0]}


@pytest.mark.parametrize("away", [False, True])
def test_an_event_log_that_was_wiped_alone_is_published_again(complete: Consortium, away: bool) -> None:
    if away:
        complete.stop()
    complete.broker.wipe_stream(AUDIT)
    if away:
        complete.start()
    eventually(
        lambda: complete.broker.count_messages(AUDIT) and held(complete, AUDIT) == journaled(complete), what="the log"
    )


@pytest.mark.parametrize("away", [False, True])
def test_models_that_were_wiped_alone_are_sent_again(complete: Consortium, away: bool) -> None:
    before = {one for one in held(complete, MODELS) if isinstance(one, bytes)}
    assert before
    if away:
        complete.stop()
    complete.broker.wipe_stream(MODELS)
    if away:
        complete.start()
    eventually(lambda: before <= held(complete, MODELS), what="the chunks of the model")


def test_what_is_current_is_announced_again_when_downlink_alone_was_wiped(complete: Consortium) -> None:
    before = ended(complete)
    complete.broker.wipe_stream(DOWNLINK)
    eventually(lambda: ended(complete) & before, what="the end of the experiment")


def test_nothing_is_sent_twice_to_streams_that_are_what_they_were(complete: Consortium) -> None:
    lengths = {queue: complete.broker.count_messages(queue) for queue in (MODELS, AUDIT)}
    complete.stop()
    complete.start()
    eventually(lambda: held(complete, AUDIT) == journaled(complete), what="the entry of the start")
    started = complete.broker.count_messages(AUDIT)
    assert complete.broker.count_messages(MODELS) == lengths[MODELS]
    assert started - lengths[AUDIT] == 1


def test_a_coordinator_that_may_not_read_them_says_so_works_on_and_takes_uplink_for_all_of_them(
    older: Consortium, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr("messages.ground.operating.systemd.notify_manager", told.append)
    older.start()
    older.join()
    older.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    older.until("model-ready")
    eventually(lambda: held(older, AUDIT) == journaled(older), what="the whole event log")
    eventually(lambda: any(line.endswith("missing in the broker: audit, downlink, models") for line in told), what="it")
    said = capsys.readouterr().out
    assert all(f"queue={queue}" in said for queue in OWN_WORD)
    chunks = {one for one in held(older, MODELS) if isinstance(one, bytes)}
    for queue in (AUDIT, MODELS, UPLINK):
        older.broker.wipe_stream(queue)
    eventually(lambda: older.broker.count_messages(AUDIT) and held(older, AUDIT) == journaled(older), what="the log")
    eventually(lambda: chunks <= held(older, MODELS), what="the chunks of the model")
