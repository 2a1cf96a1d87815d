"""A model over a slow line: its end is told, and what is on its way is not asked for again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import site_consortium as script
from brokers import eventually

from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.ground.clock import SystemClock
from messages.kinds import ChunksWanted, Transfer
from messages.tensors.layout import chunk_digests, manifest_of, seal_transfer
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk
from site_agent.core.permissions import Floors
from site_agent.disk.spool import Spool
from site_agent.loop.relay import Relay
from site_agent.wire import receiver as receivers
from site_agent.wire.outbox import Outbox
from site_agent.wire.receiver import ChunkReceiver

KEY = TransferKey("exp-1", 1, "coordinator")
SIZE, CHUNKS = 1024, 8
MODEL = bytes(range(256)) * (SIZE * CHUNKS // 256)


class Site:
    """A receiver whose questions are kept."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder)
        self.asked: list[ChunksWanted] = []
        self.complete = threading.Event()
        self.receiver = ChunkReceiver(
            self.spool,
            SystemClock(),
            on_complete=lambda _key, _digest: self.complete.set(),
            on_no_room=lambda _name: None,
            on_progress=lambda _key, _done, _total: None,
            ask=lambda _name, body: self.asked.append(body),
            room=lambda: 2**30,
        )

    def chunk(self, index: int, key: TransferKey = KEY) -> None:
        data = MODEL[index * SIZE : (index + 1) * SIZE]
        body = encode_chunk(ChunkHeader(key, index, SIZE, len(MODEL), sha256(data).digest()), data)
        delivery = Delivery("global", "global-chunk.coordinator.exp-1", body, "coordinator", index, index, 1)
        self.receiver.deliver_chunk(delivery, lambda _delivery: None)


def sealed() -> Transfer:
    manifest = manifest_of({"w": np.frombuffer(MODEL, np.float32)}, chunk_bytes=SIZE)
    return Transfer(round=1, attempt=1, seal=seal_transfer(manifest, chunk_digests(manifest, MODEL)), manifest=manifest)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path / "state")
    yield one
    one.receiver.close()
    one.spool.close()


def test_chunks_that_come_slowly_are_waited_for_longer(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    monkeypatch.setattr(receivers, "FIRST_ASK", 0.1)
    site.receiver._gap = 5.0  # what chunks took before: the test need not be that slow
    site.receiver.watch_experiment("exp-1", 0)
    site.receiver.expect_transfer(KEY, sealed())
    site.chunk(0)
    pauses = eventually(lambda: [one.pause for one in site.receiver._wanted.values() if one.incoming], what="a chunk")
    assert pauses == [pytest.approx(3 * 0.8 * 5.0)]
    assert site.asked == []


def test_of_models_that_nobody_has_named_the_newest_alone_takes_up_space(site: Site) -> None:
    """A site that is long at work on one model hears those that others make meanwhile."""
    site.receiver.watch_experiment("exp-1", 1)
    for number in (2, 3, 4):
        site.chunk(0, TransferKey("exp-1", number, "coordinator"))
    left = eventually(
        lambda: [key.round for key in site.receiver._wanted if key.round == 4] and list(site.receiver._wanted),
        what="the newest model",
    )
    assert [key.round for key in left] == [4]
    assert {path.name.split(".")[1] for path in site.spool.globals.iterdir()} == {"4"}


def test_a_transfer_tells_when_it_will_be_done_once_it_has_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("site_agent.loop.relay.EVERY", 0.0)
    spool, bus = Spool(tmp_path / "state"), MemoryBus(script.broker(), "site-a")
    try:
        voice = Outbox(bus, spool, script.CONSORTIUM, "site-a", SystemClock())
        relay = Relay(voice, Floors(), moved=lambda: (0, 0), post=lambda work: work(), clock=SystemClock())
        relay.relay_transfer("fetching", KEY, 1, CHUNKS)
        assert relay.latest["exp-1"].eta_seconds is None
        relay.relay_transfer("fetching", KEY, 3, CHUNKS)
        first = relay.latest["exp-1"].eta_seconds
        assert first is not None
        assert first > 0
        relay.relay_transfer("fetching", KEY, CHUNKS, CHUNKS)
        assert relay.latest["exp-1"].eta_seconds == 0
        relay.relay_transfer("fetching", TransferKey("exp-1", 2, "coordinator"), 1, CHUNKS)
        assert relay.latest["exp-1"].eta_seconds is None, "another transfer begins anew"
    finally:
        bus.close()
        spool.close()
