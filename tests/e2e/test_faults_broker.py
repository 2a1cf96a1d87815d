"""A broker that is wiped or takes rights away, under a whole consortium of processes; more in tests/chaos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually
from e2e_rig import running
from fault_rig import FaultRig

from deploy.broker.configuration import write_private
from deploy.demo.consortium import RESEARCHER
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    with running(tmp_path_factory.mktemp("broker"), FaultRig) as rig:
        rig.calm()
        yield rig


def test_a_broker_that_lost_its_data_directory_gets_everything_again_and_the_bits_stay(rig: FaultRig) -> None:
    def wiped() -> None:
        rig.node.kill_node()
        rig.node.wipe_messages()
        rig.node.start()

    before = rig.entries()
    rig.survives("wiped", wiped)
    assert rig.said(COORDINATOR, "a queue is not the one that was read before", queue="uplink")
    assert rig.said("site-a", "a queue is not the one that was read before", queue="downlink")
    # The auditor reads the entries of experiments that were over before, too, and a researcher their models.
    eventually(lambda: before <= rig.audited(), what="the event log to be back")
    sent = eventually(lambda: rig.chunks(RESEARCHER, "models", "calm"), what="the finished model to be back")
    assert sent


def test_a_site_whose_rights_are_taken_away_says_so_and_goes_on_when_they_are_back(rig: FaultRig) -> None:
    (rights,) = [one for one in rig.consortium.make_definitions()["permissions"] if one["user"] == "site-a"]

    def taken_away_and_given_back() -> None:
        rig.ctl("set_permissions", "-p", "VHOST", "site-a", "^$", "^$", "^$")
        rig.cut_off("site-a")
        eventually(lambda: rig.status("site-a")["broker"] == "refused", what="the site to be told")
        rig.ctl("set_permissions", "-p", "VHOST", "site-a", rights["configure"], rights["write"], rights["read"])
        eventually(lambda: rig.status("site-a")["broker"] == "connected", what="the site to be let in again")

    rig.survives("refused", taken_away_and_given_back)
    assert any("refuse" in line.get("detail", "") for line in rig.lines("site-a") if line["event"] == "broker lost")


def test_streams_that_only_others_read_are_missed_by_the_coordinator_when_they_alone_are_deleted_and_filled_again(
    rig: FaultRig, tmp_path: Path
) -> None:
    definitions = tmp_path / "definitions.json"
    write_private(definitions, json.dumps(rig.consortium.make_definitions()))
    before = rig.entries()
    eventually(lambda: before <= rig.audited(), what="the event log to be there")
    deleted = len(rig.lines(COORDINATOR))

    def told(event: str, queue: str) -> bool:
        lines = rig.lines(COORDINATOR)[deleted:]
        return any(line["event"] == event and line.get("queue") == queue for line in lines)

    for queue in ("models", "audit", "downlink"):
        rig.ctl("delete_queue", queue, "-p", "VHOST")
        eventually(lambda q=queue: told("a queue is not there, or may not be read", q), what=f"{queue} to be missed")  # type: ignore[misc]
    rig.ctl("import_definitions", str(definitions))
    for queue in ("models", "audit", "downlink"):
        eventually(lambda q=queue: told("a queue is there again", q), what=f"{queue} to be found")  # type: ignore[misc]
    eventually(lambda: before <= rig.audited(), what="the event log to be filled again")
    eventually(lambda: rig.messages(RESEARCHER, "downlink"), what="what is current to be told again")
    eventually(lambda: rig.chunks(RESEARCHER, "models", "calm"), what="the finished model to be sent again")

    def renewed() -> set[str]:
        about = "a queue is not the one that was read before"
        return {line["queue"] for line in rig.lines(COORDINATOR)[deleted:] if line["event"] == about}

    eventually(lambda: renewed() >= {"models", "audit", "downlink"}, what="each to be known as another one")
    assert renewed() == {"models", "audit", "downlink"}
    lines = rig.lines(COORDINATOR)[deleted:]
    assert not [line for line in lines if line["event"] == "broker"], "nothing else waited for them"
