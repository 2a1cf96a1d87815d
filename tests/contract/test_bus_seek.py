"""A stream that is read again from an earlier place, while it is being read."""

from __future__ import annotations

import pytest
from brokerage import Brokerage, Collector, numbered, send
from brokers import eventually

from messages.bus.base import Position, digest_of


@pytest.mark.parametrize(("position", "first"), [(Position(6, digest_of(b"6")), 7), (None, 0)])
def test_a_reader_that_seeks_reads_again_from_behind_that_place_or_from_the_head(
    brokerage: Brokerage, position: Position | None, first: int
) -> None:
    bus = brokerage.bus("coordinator")
    send(bus, range(20))
    got = Collector()
    got.of(brokerage.bus("site-a"), "downlink", credit=4)
    eventually(lambda: len(got.deliveries) == 20)
    got.subscription.seek(position)
    eventually(lambda: len(got.deliveries) == 40 - first)
    send(bus, range(20, 25))  # and it goes on from there
    eventually(lambda: len(got.deliveries) >= 45 - first)
    assert got.bodies == numbered(range(20)) + numbered(range(first, 25))


def test_what_was_delivered_before_the_seek_may_still_be_acknowledged(brokerage: Brokerage) -> None:
    send(brokerage.bus("coordinator"), range(8))
    got = Collector(ack=False)
    got.of(brokerage.bus("site-a"), "downlink", credit=8)
    eventually(lambda: len(got.deliveries) == 8)
    got.subscription.seek(None)
    eventually(lambda: len(got.deliveries) == 16)
    got.ack_all()
    send(brokerage.bus("coordinator"), range(8, 20))
    eventually(lambda: got.bodies[-1] == b"19")
    assert got.bodies == numbered(range(8)) + numbered(range(20))
