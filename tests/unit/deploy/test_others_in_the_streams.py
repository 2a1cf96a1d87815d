"""A person's commands read streams in which others wrote: what is not the coordinator's is counted and left out."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest
from astray import forge_chunk, plant_message
from brokers import PARTIES, consortium_definitions
from finished_experiment import finished
from storytelling import MANIFEST, complete

from deploy.session import connection, model_file
from deploy.session.connection import BrokerSession
from deploy.session.history import story_of
from deploy.session.profile import Profile
from messages import kinds, names
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey

VHOST = "test"
SITE = Author(VHOST, "site-b", 1)


def quiet(_text: str) -> None:
    """Shows nothing."""


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(consortium_definitions(PARTIES))


@pytest.fixture
def coordinator(broker: MemoryBroker) -> Iterator[MemoryBus]:
    bus = MemoryBus(broker, "coordinator")
    yield bus
    bus.close()


def open_as(broker: MemoryBroker, role: str) -> BrokerSession:
    profile = Profile(name=role, role="researcher" if role == "dr-a" else "auditor", consortium=VHOST)
    return BrokerSession(MemoryBus(broker, role), profile)


def spoil_models(broker: MemoryBroker) -> int:
    """64 messages of a site before the model: rubbish, and chunks of the very transfer with other content."""
    true = TransferKey("try", 3, "coordinator", 1)
    for number in range(64):
        chunk = forge_chunk(true, number % MANIFEST.chunks, MANIFEST.chunk_bytes, MANIFEST.nbytes)
        body = b"rubbish" if number % 2 else chunk
        plant_message(broker, names.MODELS, "model-chunk.site-b.try", body, "site-b")
        plant_message(broker, names.MODELS, "model-chunk.coordinator.try", body, "site-b")
    return 128


def test_a_model_is_fetched_though_a_site_wrote_into_its_stream(
    broker: MemoryBroker, coordinator: MemoryBus, tmp_path: Path
) -> None:
    count = spoil_models(broker)
    digest = finished(coordinator)
    spoil_models(broker)
    with open_as(broker, "dr-a") as session:
        assert model_file.fetch_model(session, "try", tmp_path / "model", quiet) == digest
        assert session.malformed >= count


class NoisyLine:
    """What a session hears: a message of others each second, so many of them, then `last`; and the time meanwhile."""

    def __init__(self, noise: int, last: Delivery | None) -> None:
        self.now, self._left = 0.0, [RUBBISH] * noise + ([] if last is None else [last])

    def monotonic(self) -> float:
        return self.now

    def get(self, timeout: float) -> Delivery:
        self.now += min(1.0, timeout)
        if timeout < 1.0 or not self._left:
            raise queue.Empty
        return self._left.pop(0)


RUBBISH = Delivery(names.MODELS, "model-chunk.site-b.try", b"rubbish", "site-b", 0, 1)
CHUNK = Delivery(names.MODELS, "model-chunk.coordinator.try", b"a chunk", "coordinator", 1, 2)


def hear(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, line: NoisyLine, *, quiet: bool) -> Delivery | None:
    with open_as(broker, "dr-a") as session:
        session.listen_to(names.MODELS)
        monkeypatch.setattr(session, "_heard", line)
        monkeypatch.setattr(session.clock, "monotonic", line.monotonic)
        heard = session.next_heard(3.0, quiet=quiet)
        monkeypatch.undo()
        return None if heard is None else heard.delivery


def test_what_others_write_is_no_quiet(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hear(broker, monkeypatch, NoisyLine(10, CHUNK), quiet=True) == CHUNK
    assert hear(broker, monkeypatch, NoisyLine(10, CHUNK), quiet=False) is None


def test_who_waits_for_quiet_waits_no_more_than_a_minute_for_others_to_end(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = NoisyLine(10_000, None)
    assert hear(broker, monkeypatch, line, quiet=True) is None
    assert connection.NOISE_WITHIN <= line.now <= connection.NOISE_WITHIN + 4.0


@pytest.mark.parametrize("role", ["dr-a", "auditor"])
@pytest.mark.parametrize("stream", [names.DOWNLINK, names.AUDIT])
def test_what_a_site_says_where_the_coordinator_speaks_is_no_part_of_the_story(
    broker: MemoryBroker, coordinator: MemoryBus, role: str, stream: str
) -> None:
    for entry in complete().entries:
        coordinator.publish("journal-entry.coordinator.try", entry.encode())
    with open_as(broker, role) as session:
        honest = story_of(session, "try")
    declined = SITE.write_event(
        "declined", kinds.Declined(reason=Reason.SITE_PAUSED), time=99.0, experiment="try", seq=1
    )
    plant_message(broker, stream, declined.key, declined.raw, "site-b")
    for entry in complete().entries[:3]:
        plant_message(broker, stream, "journal-entry.site-b.try", entry.encode() + b"x", "site-b")
    with open_as(broker, role) as session:
        assert story_of(session, "try") == honest
        assert session.malformed == (0 if (role, stream) == ("auditor", names.DOWNLINK) else 4)
