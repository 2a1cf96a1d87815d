"""Chunks of updates that began in different rounds, at the coordinator's receiver."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from brokers import eventually

from coordinator.core.effects import Expect, Listen
from coordinator.wire.incoming import ChunkReceiver
from coordinator.work.blobs import Blobs
from messages.bus.base import Delivery
from messages.ground.clock import SystemClock
from messages.strategies import FEDAVG
from messages.tensors.layout import chunk_digests, manifest_of, seal_transfer
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk

UPDATE = bytes(range(256)) * 8
MANIFEST = manifest_of({"w": np.frombuffer(UPDATE, np.float32)}, chunk_bytes=1024)
SEAL = seal_transfer(MANIFEST, chunk_digests(MANIFEST, UPDATE))
SITES = frozenset({"site-a", "site-b"})


class Coordinator:
    """A receiver; what it has verified, by site and round."""

    def __init__(self, folder: Path) -> None:
        self.verified: list[tuple[str, int]] = []
        self.offset = 0
        self.receiver = ChunkReceiver(
            Blobs(folder),
            lambda _incoming, effect: self.verified.append((effect.site, effect.round)),
            lambda _effect, _chunks: None,
            lambda _positions: None,
            SystemClock(),
        )
        self.receiver.start()

    def listen(self, number: int, oldest: int | None = None) -> None:
        self.receiver.put_item(Listen("exp-1", number, MANIFEST, SITES, oldest=oldest))

    def chunk(self, site: str, number: int, index: int, attempt: int = 1) -> None:
        data, self.offset = UPDATE[index * 1024 : (index + 1) * 1024], self.offset + 1
        key = TransferKey("exp-1", number, site, attempt)
        body = encode_chunk(ChunkHeader(key, index, 1024, len(UPDATE), sha256(data).digest()), data)
        delivery = Delivery(f"update.{site}", f"update-chunk.{site}.exp-1", body, site, self.offset, self.offset, 1)
        self.receiver.take_delivery(delivery, lambda _delivery: None)

    def expect(self, site: str, number: int, attempt: int = 1) -> None:
        self.receiver.put_item(Expect("exp-1", number, site, attempt, SEAL, MANIFEST, "0" * 64, FEDAVG))

    def settles(self, *wanted: tuple[str, int]) -> None:
        eventually(lambda: sorted(self.verified) == sorted(wanted), what=f"{wanted}")


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    one = Coordinator(tmp_path / "blobs")
    yield one
    one.receiver.stop()


def test_an_update_that_began_earlier_is_taken_on_through_later_rounds(coordinator: Coordinator) -> None:
    coordinator.listen(1)
    coordinator.chunk("site-b", 1, 0)
    coordinator.listen(2, oldest=1)
    coordinator.listen(3, oldest=1)
    coordinator.chunk("site-b", 1, 1)
    coordinator.expect("site-b", 1)
    for index in (0, 1):
        coordinator.chunk("site-a", 3, index)
    coordinator.expect("site-a", 3)
    coordinator.settles(("site-a", 3), ("site-b", 1))


def test_what_a_site_begins_anew_takes_the_place_of_what_it_sent_before(coordinator: Coordinator) -> None:
    coordinator.listen(1)
    coordinator.chunk("site-b", 1, 0, attempt=2)
    coordinator.listen(2, oldest=1)
    for index in (0, 1):
        coordinator.chunk("site-b", 2, index)
    coordinator.chunk("site-b", 1, 1, attempt=2)  # too late: it is no part of what is sent now
    coordinator.expect("site-b", 2)
    coordinator.settles(("site-b", 2))


def test_an_update_of_a_round_that_nobody_goes_on_with_is_dropped(coordinator: Coordinator) -> None:
    coordinator.listen(1)
    coordinator.chunk("site-b", 1, 0)
    coordinator.listen(3, oldest=2)
    coordinator.chunk("site-b", 1, 1)
    for index in (0, 1):
        coordinator.chunk("site-a", 2, index)
    coordinator.expect("site-a", 2)
    coordinator.settles(("site-a", 2))
    assert [key.sender for key in coordinator.receiver._done] == ["site-a"]
    assert coordinator.receiver._transfers == {}
