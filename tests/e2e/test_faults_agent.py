"""An agent that is killed at each stage of a round, told to stop, or loses its trainer; a full disk: tests/chaos."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually, need_broker
from fault_rig import LONG, FaultRig

from messages.crash import AT
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

SITE = "site-a"
LARGE = {"name": "UNet", "channels": [80, 160, 320], "strides": [2, 2], "num_res_units": 0}
"""A net whose weights take several chunks of 1 MiB."""
STAGES = ("agent:takeround 1", "agent:fetching 4", "agent:begin 1", "agent:sending 5", "agent:seal 1")
"""Just told of the round, downloading, training, uploading, waiting for the receipt."""
STOP_WITHIN = 30
"""Seconds that the unit gives the agent to stop (deploy/systemd/konsil-site.service, TimeoutStopSec)."""


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash") / "at"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, crash: Path) -> Iterator[FaultRig]:
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("agent"), seconds=1.0)
    try:
        rig.start_broker()
        # A line slow enough that an update is on its way for some seconds.
        rig.edit(SITE, "[limits]\n", '[limits]\nbandwidth = "24Mbit/s"\n')
        for party in (COORDINATOR, "site-b", "site-c"):
            rig.start(party)
        rig.start(SITE, environment={AT: str(crash)})
        rig.calm(net=LARGE)
        yield rig
    finally:
        rig.close()


def test_an_agent_killed_at_each_stage_of_a_round_goes_on_where_it_was(rig: FaultRig, crash: Path) -> None:
    crash.write_text(STAGES[0])
    rig.publish(rig.small("killed", net=LARGE))
    for following in (*STAGES[1:], None):
        agent = rig.services[SITE].process
        agent.wait(LONG)
        assert agent.returncode == -signal.SIGKILL
        if following is not None:
            crash.write_text(following)
        rig.start(SITE, environment={AT: str(crash)})
    rig.same_bits("killed")

    down = rig.chunks("site-b", "global", "killed")
    up = rig.chunks(COORDINATOR, f"update.{SITE}", "killed")
    for sent in (down, up):
        chunks = len(set(sent[1]))
        assert chunks >= 5
        assert sent[1].count(0) == 1, "it began again"
        assert len(sent[1]) <= chunks + 4
        assert sorted(sent[2]) == list(range(chunks))


def test_an_agent_told_to_stop_in_training_says_so_and_comes_back_and_a_killed_trainer_is_replaced(
    rig: FaultRig, crash: Path
) -> None:
    def stopped() -> None:
        os.kill(eventually(lambda: rig.trainer("site-b", "stopped"), 60, "the trainer"), signal.SIGKILL)
        rig.services[SITE].signal(signal.SIGTERM)
        assert rig.services[SITE].process.wait(STOP_WITHIN) == 0
        eventually(lambda: rig.heard("leaving", SITE), what="its leaving")
        rig.start(SITE, environment={AT: str(crash)})

    rig.survives("stopped", stopped, net=LARGE)
    assert rig.said("site-b", "decided", what="retry", experiment="stopped")
