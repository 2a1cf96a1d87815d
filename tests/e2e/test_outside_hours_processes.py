"""A site outside its allowed hours, as researcher and operator see it, in a consortium of real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from brokers import eventually, need_broker
from e2e_rig import experiment
from fault_rig import LONG, FaultRig

from messages.names import COORDINATOR
from messages.reasons import Reason

pytestmark = [pytest.mark.broker, pytest.mark.slow]

SHUT = "site-c"
OTHERS = ("site-a", "site-b")
BEGIN = datetime.now().astimezone() + timedelta(hours=3)
TWO = {"least_sites": 2}


def konsil(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deploy.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("hours"))
    try:
        rig.start_broker()
        hours = f"{BEGIN:%H:%M}-{BEGIN + timedelta(hours=1):%H:%M}"
        rig.edit(SHUT, "[limits]\n", f'[limits]\nhours = "{hours}"\n')
        for party in (COORDINATOR, *OTHERS, SHUT):
            rig.start(party)
        yield rig
    finally:
        rig.close()


def test_enrolment_and_rounds_do_not_wait_for_a_site_whose_hours_begin_after_enrolment_ends(rig: FaultRig) -> None:
    rig.publish(experiment("soon", quorum=TWO, rounds={"count": 1, "enrol_within": "2h"}))
    story = rig.complete("soon", LONG)  # two hours before the enrolment's end
    assert [sorted(one.contributors) for one in story.round_list] == [list(OTHERS)]
    assert (story.sites[SHUT].state, story.sites[SHUT].reason) == ("declined", Reason.OUTSIDE_HOURS)


def test_a_site_whose_work_waits_for_its_hours_says_so_to_researcher_operator_and_coordinator(rig: FaultRig) -> None:
    rig.publish(experiment("night", quorum=TWO, rounds={"count": 1, "enrol_within": "24h"}))
    watch = konsil("experiment", "watch", "night", "--profile", rig.layout.profile)
    try:
        assert watch.stdout is not None
        line = next((line for line in watch.stdout if SHUT in line and "hours" in line), "")
        assert line.startswith(f"{SHUT} is outside-hours: its work waits for its allowed hours, which begin at ")
        status = konsil("site", "status", "--config", rig.consortium.config_of(SHUT)).communicate(timeout=LONG)[0]
        assert f"{SHUT}: outside-hours until {BEGIN:%H:%M}, broker connected" in status
        assert rig.status(SHUT)["queue"] == ["night"]
        eventually(lambda: rig.said(COORDINATOR, "ready"), what="the coordinator to be there")
        abort = konsil("experiment", "abort", "night", "--profile", rig.layout.profile)
        said = abort.communicate(timeout=LONG)[0]
        assert abort.returncode == 0, said
        eventually(lambda: rig.status(SHUT)["state"] == "idle", what="nothing to wait any more")
    finally:
        watch.kill()
        watch.communicate()
    troubled = [line for line in rig.lines(COORDINATOR) if line["event"] == "liveness" and line["site"] == SHUT]
    assert not [line for line in troubled if line["liveness"] in ("stuck", "slow")]
