"""Bad lines and bad trainers, told apart: absent, slow and stuck; and a connection that dies without a word."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from brokers import eventually, need_broker
from fault_rig import FaultRig
from needs import need_chaos
from proxy import FaultyProxy

from messages.liveness import Liveness
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

LARGE = {"name": "Rehearsal", "tensors": 10, "kilobytes": 8000}


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    line = FaultyProxy(("127.0.0.1", 0))
    yield line
    line.close()


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory, proxy: FaultyProxy) -> Iterator[FaultRig]:
    """site-a's line goes through the proxy."""
    need_chaos()
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("line"), seconds=2.0)
    try:
        rig.start_broker()
        proxy.target = ("127.0.0.1", rig.node.port)
        proxy.start()
        rig.edit("site-a", f"port = {rig.node.port}", f"port = {proxy.port}")
        rig.start(COORDINATOR)
        for site in ("site-a", "site-b", "site-c"):
            rig.start(site)
        yield rig
    finally:
        rig.close()


def test_a_connection_that_dies_without_a_word_is_noticed_within_a_minute_and_the_bits_stay(
    rig: FaultRig, proxy: FaultyProxy
) -> None:
    rig.calm()

    def dead_line() -> None:
        proxy.half_open()
        eventually(lambda: rig.said("site-a", "broker lost"), 60, "the site to notice within a minute")
        proxy.heal()

    rig.survives("half-open", dead_line)


@pytest.mark.timeout(900)
def test_a_site_behind_a_crawling_line_is_slow_and_a_stopped_trainer_stuck_and_a_stopped_agent_absent(
    rig: FaultRig, proxy: FaultyProxy
) -> None:
    one = rig.small("three-troubles", net=LARGE, rounds={"count": 50, "grace": 1000}, quorum={"least_sites": 2})
    proxy.throttle(1_000_000)
    rig.publish(one)
    rig.in_training(one.id)
    trainer = eventually(lambda: rig.trainer("site-b", one.id), 60, "the trainer at site-b")
    os.kill(trainer, signal.SIGSTOP)
    rig.services["site-c"].send_signal(signal.SIGSTOP)
    try:
        for site, liveness in (("site-c", Liveness.ABSENT), ("site-a", Liveness.SLOW), ("site-b", Liveness.STUCK)):
            eventually(
                lambda site=site, liveness=liveness: rig.said(
                    COORDINATOR, "liveness", site=site, liveness=liveness.value
                ),
                240,
                f"{site} to be told as {liveness}",
            )
        # Chunks that are on their way are not asked for again, or a slow line carries everything twice.
        assert sum(line["event"] == "asking for chunks" for line in rig.lines("site-a")) <= 3
    finally:
        rig.services["site-c"].send_signal(signal.SIGCONT)
        os.kill(trainer, signal.SIGKILL)
