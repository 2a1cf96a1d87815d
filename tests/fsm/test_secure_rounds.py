"""Secure rounds from end to end on the bus in memory: the sum is the plain one, and no single update is seen."""

from __future__ import annotations

from pathlib import Path

from secure_consortium import run_secure, start_secure
from virtual_consortium import VirtualConsortium

from messages import kinds


def test_three_sites_come_through_two_secure_rounds(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium)
        consortium.until("experiment-complete", 7200.0)

    consortium = run_secure(tmp_path, work)
    rounds = [one.body for _at, one in consortium.of("round-complete")]
    assert [sorted(one.contributors) for one in rounds if isinstance(one, kinds.RoundComplete)] == [
        ["site-a", "site-b", "site-c"]
    ] * 2
