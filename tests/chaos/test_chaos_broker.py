"""A broker that is restarted, full, changes its passwords or its queues, under a whole consortium of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from alarms import disk_alarm
from brokers import eventually
from e2e_rig import running
from fault_rig import FaultRig
from needs import need_chaos

from deploy.broker.configuration import write_private
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    need_chaos()
    with running(tmp_path_factory.mktemp("broker"), FaultRig, seconds=1.0) as rig:
        rig.calm()
        yield rig


def test_a_broker_that_is_restarted_in_order_costs_time_and_nothing_else(rig: FaultRig) -> None:
    rig.survives("restarted", rig.node.restart)


def test_an_alarm_makes_everyone_wait_and_say_so_and_then_go_on(rig: FaultRig) -> None:
    def alarm() -> None:
        with disk_alarm(rig.node):
            eventually(lambda: rig.status("site-b")["broker"] == "blocked", 60, "the site to be told")
            eventually(lambda: rig.said(COORDINATOR, "broker", state="blocked"), 60, "the coordinator to be told")
            assert not any(rig.story("alarmed").round_list[0].contributors)
        eventually(lambda: rig.status("site-b")["broker"] in ("connected", "unblocked"), 60, "the site to go on")

    rig.survives("alarmed", alarm)
    assert rig.said("site-b", "broker takes no messages")


def test_a_memory_alarm_is_waited_for_as_well(rig: FaultRig) -> None:
    def alarm() -> None:
        rig.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        eventually(lambda: rig.status("site-b")["broker"] == "blocked", 60, "the site to be told")
        rig.ctl("set_vm_memory_high_watermark", "0.4")

    rig.survives("short-of-memory", alarm)


def test_a_site_that_is_let_into_the_vhost_no_more_comes_back_when_it_is(rig: FaultRig) -> None:
    (rights,) = [one for one in rig.consortium.make_definitions()["permissions"] if one["user"] == "site-a"]

    def shut_out_and_let_in() -> None:
        rig.ctl("clear_permissions", "-p", "VHOST", "site-a")
        rig.cut_off("site-a")
        eventually(lambda: rig.status("site-a")["broker"] == "refused", 60, "the site to be told")
        rig.ctl("set_permissions", "-p", "VHOST", "site-a", rights["configure"], rights["write"], rights["read"])

    rig.survives("shut-out", shut_out_and_let_in)


def test_a_password_that_was_changed_shuts_the_site_out_until_it_is_right_again(rig: FaultRig) -> None:
    def changed_and_changed_back() -> None:
        rig.ctl("change_password", "site-a", "another")
        rig.cut_off("site-a")
        eventually(lambda: rig.status("site-a")["broker"] == "refused", 60, "the site to be told")
        rig.ctl("change_password", "site-a", rig.consortium.passwords["site-a"])

    rig.survives("password", changed_and_changed_back)


def test_queues_that_are_deleted_and_declared_again_are_filled_again(rig: FaultRig, tmp_path: Path) -> None:
    definitions = tmp_path / "definitions.json"
    write_private(definitions, json.dumps(rig.consortium.make_definitions()))

    def deleted_and_declared() -> None:
        for queue in ("downlink", "uplink", "global", "update.site-a", "inbox.site-a", "inbox.coordinator"):
            rig.ctl("delete_queue", queue, "-p", "VHOST")
        rig.ctl("import_definitions", str(definitions))

    rig.survives("deleted", deleted_and_declared)
