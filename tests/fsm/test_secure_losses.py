"""A site of four is lost in each gap of a secure round: the round goes on, and the sum is that of who sent updates."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from secure_consortium import FOUR, MODEL, PRIVACY, ROUNDS, add_up, digests_of, run_secure, start_secure
from virtual_consortium import VirtualConsortium

from messages import kinds
from messages.bus.base import Body, Confirm
from messages.bus.confirm import Receipt
from messages.bus.memory import MemoryBus
from nets.digest import arrays_digest

LOST = "site-d"
GAPS = {
    "secure-keys": (FOUR[:3], FOUR[:3]),
    "secure-shares": (FOUR[:3], FOUR[:3]),
    "weights-ready": (FOUR, FOUR[:3]),
    "secure-consent": (FOUR, FOUR),
    "secure-reveal": (FOUR, FOUR),
}
"""What it says no more → who masks, and who is in the sum."""


def silent_from(gap: str) -> type[MemoryBus]:
    """A bus on which nothing of the lost site arrives any more, from this word on."""

    class Silent(MemoryBus):
        gone = False

        def publish(self, key: str, body: Body) -> Confirm:
            kind, sender = key.split(".")[:2]
            type(self).gone = self.gone or (sender == LOST and kind == gap)
            if sender == LOST and self.gone:
                unsaid = Receipt(threading.Event())
                unsaid.settle()
                return unsaid
            return super().publish(key, body)

    return Silent


@pytest.mark.parametrize("gap", GAPS)
def test_a_site_that_is_lost_in_a_gap_changes_nothing_but_who_is_in_the_sum(gap: str, tmp_path: Path) -> None:
    masked, summed = GAPS[gap]

    def work(consortium: VirtualConsortium) -> None:
        rounds = ROUNDS | {"count": 1, "train_within": 300.0}
        privacy = {**PRIVACY, "exchange_within": 30.0}
        start_secure(consortium, sites=list(FOUR), rounds=rounds, privacy=privacy)
        consortium.until("round-complete", 1800.0)

    consortium = run_secure(tmp_path, work, sites=FOUR, join=silent_from(gap))
    (complete,) = [one.body for _at, one in consortium.of("round-complete")]
    assert isinstance(complete, kinds.RoundComplete)
    assert tuple(sorted(complete.contributors)) == summed
    assert digests_of(consortium) == [arrays_digest(add_up(MODEL, 1, summed, masked))]
