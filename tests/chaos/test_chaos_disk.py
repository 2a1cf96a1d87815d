"""A site whose disk fills up in the middle of a run."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import need_broker
from fault_rig import FaultRig
from needs import need_chaos

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]


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
    need_chaos()
    need_broker()
    rig = FaultRig(tmp_path, seconds=0.5)
    state = rig.layout.site_folder("site-c")
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
