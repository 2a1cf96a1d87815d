"""An agent that is killed at each stage of a round, told to stop, or loses its trainer or its disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually, need_broker
from fault_rig import FaultRig

from messages.crash import AT
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SITE = "site-a"
LARGE = {"name": "UNet", "channels": [80, 160, 320], "strides": [2, 2], "num_res_units": 0}
"""A net whose weights take several chunks of 1 MiB."""
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


@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("idle", "agent:takeround 1"),
        ("downloading", "agent:fetching 4"),
        ("training", "agent:begin 2"),
        ("uploading", "agent:sending 5"),
        ("waiting", "agent:seal 1"),
    ],
)
def test_an_agent_killed_at_any_stage_goes_on_where_it_was(rig: FaultRig, crash: Path, step: str, when: str) -> None:
    identity = f"killed-{step}"
    crash.write_text(when)
    rig.publish(rig.small(identity, net=LARGE))
    rig.services[SITE].process.wait(90)
    assert rig.services[SITE].process.returncode == -signal.SIGKILL
    rig.start(SITE, environment={AT: str(crash)})
    rig.same_bits(identity)

    down = rig.chunks("site-b", "global", identity)
    up = rig.chunks(COORDINATOR, f"update.{SITE}", identity)
    for sent in (down, up):
        chunks = len(set(sent[1]))
        assert chunks >= 5
        assert sent[1].count(0) == 1, "it began again"
        assert len(sent[1]) <= chunks + 4
        assert sorted(sent[2]) == list(range(chunks))


def test_an_agent_that_is_told_to_stop_in_training_says_so_ends_with_0_and_comes_back(
    rig: FaultRig, crash: Path
) -> None:
    def stopped() -> None:
        rig.services[SITE].signal(signal.SIGTERM)
        assert rig.services[SITE].process.wait(STOP_WITHIN) == 0
        eventually(lambda: rig.heard("leaving", SITE), what="its leaving")
        rig.start(SITE, environment={AT: str(crash)})

    rig.survives("stopped", stopped, net=LARGE)


def test_a_trainer_that_is_killed_is_replaced_and_the_round_has_the_same_bits(rig: FaultRig) -> None:
    def killed() -> None:
        pid = eventually(lambda: rig.trainer("site-b", "trainer-killed"), what="the trainer")
        os.kill(pid, signal.SIGKILL)

    rig.survives("trainer-killed", killed, net=LARGE)
    assert rig.said("site-b", "decided", what="retry", experiment="trainer-killed")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own on a folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_site_whose_disk_is_full_waits_and_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    need_broker()
    rig = FaultRig(tmp_path, seconds=0.5)
    state = rig.layout.site("site-c")
    state.mkdir(parents=True, exist_ok=True)
    with small_disk(state, "24m"):
        try:
            rig.start_all()
            one = rig.small("full", rounds={"count": 60, "grace": 1}, quorum={"least_sites": 2})
            rig.publish(one)
            rig.wait(one.id, lambda story: story.completed_rounds >= 1, "a round", 90)
            ballast = state / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(b"\0" * 4096):
                    pass
            story = rig.wait(
                one.id, lambda story: any("site-c" in r.left_out for r in story.round_list), "a round without it", 90
            )
            without = next(r.number for r in story.round_list if "site-c" in r.left_out)
            assert rig.services["site-c"].running
            ballast.unlink()
            rig.wait(
                one.id,
                lambda story: any(r.number > without and "site-c" in r.contributors for r in story.round_list),
                "it takes part again",
                90,
            )
        finally:
            rig.close()
