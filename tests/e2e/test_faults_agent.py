"""An agent that is killed at each stage of a round, told to stop, or loses its trainer; a full disk: tests/chaos."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually, need_broker
from e2e_rig import SITES
from fault_rig import LONG, FaultRig

from messages.ground.crash import AT
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SITE = "site-a"
LARGE = {"name": "Rehearsal", "tensors": 10, "kilobytes": 8000}
"""A model that takes several chunks of 1 MiB."""
STAGES = ("agent:takeround 1", "agent:fetching 4", "agent:begin 1", "agent:sending 5", "agent:seal 1")
"""Just told of the round, downloading, training, uploading, waiting for the receipt."""


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash") / "at"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, crash: Path) -> Iterator[FaultRig]:
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("agent"), seconds=0.2)
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

    def both_rounds(reader: str, queue: str) -> dict[int, list[int]] | None:
        sent = rig.chunks(reader, queue, "killed")
        return sent if sent.keys() >= {1, 2} and set(sent[1]) == set(sent[2]) else None

    for reader, queue in (("site-b", "global"), (COORDINATOR, f"update.{SITE}")):
        sent = eventually(lambda of=(reader, queue): both_rounds(*of), what=f"both rounds' chunks in {queue}")
        chunks = len(set(sent[1]))
        assert chunks >= 5
        assert set(sent[1]) == set(range(chunks))
        # On a machine that stands still for seconds parties whom nobody kills may ask, too; and the site, which has its
        # model by then, is killed in the second round instead.
        down = reader == "site-b"
        if down:
            again = [rig.models_again("killed", 1, "site-b", "site-c"), rig.models_again("killed", 2, *SITES)]
        else:
            again = [0, chunks * rig.updates_again("killed", 2, SITE)]
        for number, more in zip((1, 2), again, strict=True):
            assert sent[number].count(0) <= 1 + more, "it began again"
        assert len(sent[1]) + len(sent[2]) <= 2 * chunks + 4 + sum(again)


def test_an_agent_told_to_stop_in_training_says_so_and_comes_back_and_a_killed_trainer_is_replaced(
    rig: FaultRig, crash: Path
) -> None:
    rig.gate.hold(SITE)

    def stopped() -> None:
        eventually(lambda: rig.trainer(SITE, "stopped"), what=f"a trainer at {SITE}")
        os.kill(eventually(lambda: rig.trainer("site-b", "stopped"), what="the trainer"), signal.SIGKILL)
        rig.services[SITE].send_signal(signal.SIGTERM)
        assert rig.services[SITE].process.wait(LONG) == 0  # in time for its unit: test_systemd_nspawn
        assert not rig.said(SITE, "trainer did not end in time, ending it")
        eventually(lambda: rig.heard("leaving", SITE), what="its leaving")
        rig.gate.open(SITE)
        rig.start(SITE, environment={AT: str(crash)})

    rig.survives("stopped", stopped, net=LARGE)
    assert rig.said("site-b", "decided", what="retry", experiment="stopped")
