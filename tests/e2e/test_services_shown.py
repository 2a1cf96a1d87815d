"""What real services show: figures for Prometheus, lines of their logs, and a site that waits for its hours."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from brokers import eventually, need_broker
from e2e_rig import DEADLINE, SITES, Rig, experiment
from fault_rig import LONG, FaultRig
from prometheus_client.parser import text_string_to_metric_families

from messages.liveness import Liveness
from messages.names import COORDINATOR
from messages.reasons import Reason

pytestmark = [pytest.mark.broker, pytest.mark.slow]
Found = TypeVar("Found")
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]

SHUT = "site-c"
OTHERS = ("site-a", "site-b")
BEGIN = datetime.now().astimezone() + timedelta(hours=3)
TWO = {"least_sites": 2}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("metrics"), seconds=0.2)
    try:
        rig.start_broker()
        for party in (COORDINATOR, SITES[0]):
            switch_on(rig, party)
        for party in (COORDINATOR, *SITES):
            rig.start(party)
        yield rig
    finally:
        rig.close()


def switch_on(rig: Rig, party: str) -> None:
    path = rig.consortium.config_of(party)
    path.write_text(path.read_text() + '\n[metrics]\nlisten = "127.0.0.1:0"\n')


def lines(rig: Rig, party: str) -> list[dict[str, Any]]:
    """The whole log; every line has to be JSON."""
    whole = rig.layout.log_of(party).read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def port_of(rig: Rig, party: str) -> int:
    return within(
        rig,
        lambda: next((line["port"] for line in lines(rig, party) if line["event"] == "metrics are served"), None),
        f"{party} serves metrics",
    )


def scrape(port: int) -> Figures:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(figures: Figures, name: str, **labels: str) -> float | None:
    return figures.get((name, frozenset(labels.items())))


def within(rig: Rig, found: Callable[[], Found | None], what: str, deadline: float = DEADLINE) -> Found:
    end = time.monotonic() + deadline
    while (answer := found()) is None:
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline:.0f} s: {what}; {rig.describe(rig.story('metered'))}")
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def midway(rig: Rig) -> Figures:
    """What the coordinator showed in the middle of an experiment, which is complete now."""
    with rig.gate.held(SITES[1], 3):
        rig.publish(experiment("metered", rounds={"count": 3}))
        rig.wait("metered", lambda story: story.completed_rounds >= 2, "two rounds are complete")
        figures = scrape(port_of(rig, COORDINATOR))
    rig.complete("metered")
    return figures


def test_an_experiment_shows_in_the_figures_while_it_runs_and_its_counts_stay(rig: Rig, midway: Figures) -> None:
    coordinator, site = port_of(rig, COORDINATOR), port_of(rig, SITES[0])
    assert of(midway, "konsil_experiment_rounds_planned", experiment="metered") == 3

    def ended() -> Figures | None:
        figures = scrape(coordinator)
        return figures if of(figures, "konsil_experiments_total", outcome="complete") == 1 else None

    figures = within(rig, ended, "the coordinator has counted the experiment")
    assert of(figures, "konsil_rounds_total", outcome="complete") == 4
    assert of(figures, "konsil_rounds_total", outcome="failed") == 0
    assert (of(figures, "konsil_round_seconds_total", stretch="collect") or 0) > 0.2
    assert of(figures, "konsil_round_stretches_total", stretch="aggregate") == 3
    assert (of(figures, "konsil_model_bytes_total", direction="up") or 0) > 0
    assert (of(figures, "konsil_model_bytes_total", direction="down") or 0) > 0
    assert of(figures, "konsil_broker_connected") == 1
    assert of(figures, "konsil_broker_blocked") == 0
    assert of(figures, "konsil_term") == 1
    assert (of(figures, "konsil_journal_entries") or 0) > 10
    assert (of(figures, "process_resident_memory_bytes") or 0) > 1e7
    assert not [labels for _, labels in figures if any(key == "experiment" for key, _ in labels)]
    told = {dict(labels)["liveness"] for name, labels in figures if name == "konsil_sites"}
    assert told == {one.value for one in Liveness}
    assert {dict(labels)["site"] for name, labels in figures if name == "konsil_site_liveness"} == set(SITES)

    there = within(rig, lambda: delivered(site, 3), "the site has its last receipts")
    assert (of(there, "konsil_model_bytes_total", direction="down") or 0) > 0
    assert of(there, "konsil_broker_connected") == 1
    assert of(there, "konsil_agent_state", state="training") is not None
    assert of(there, "konsil_incarnation") == 1
    assert of(there, "konsil_phase_calls_total", phase="train") == 3


def delivered(port: int, rounds: int) -> Figures | None:
    figures = scrape(port)
    done = of(figures, "konsil_rounds_total", outcome="delivered") == rounds
    return figures if done and of(figures, "konsil_spool_events") == 0 else None


def test_a_site_that_is_killed_is_absent_in_figures_and_log_and_then_back(rig: Rig) -> None:
    port = port_of(rig, COORDINATOR)

    def is_absent(expected: bool) -> bool | None:
        here = of(scrape(port), "konsil_site_liveness", site=SITES[2], liveness="absent") == 1
        return True if here is expected else None

    within(rig, lambda: is_absent(False), "the site is there")
    rig.kill(SITES[2])
    within(rig, lambda: is_absent(True), "the killed site is absent")

    def told(absent: bool) -> bool | None:
        changes = [line for line in lines(rig, COORDINATOR) if line["event"] == "liveness" and line["site"] == SITES[2]]
        words = [line["liveness"] for line in changes]
        return True if "absent" in words and (words[-1] == "absent") is absent else None

    # A scrape judges as it is asked, the log once a second: a site that is back sooner was never away for it.
    within(rig, lambda: told(True), "the log tells that it is absent")
    back = rig.start(SITES[2])
    within(rig, lambda: is_absent(False), "the site is back")
    assert back.process.poll() is None
    within(rig, lambda: told(False), "the log tells that it is back")


@pytest.mark.usefixtures("midway")
def test_each_line_of_a_log_is_json_and_says_what_it_concerns(rig: Rig) -> None:
    for party in (COORDINATOR, *SITES):
        service = "coordinator" if party == COORDINATOR else "site"
        for line in lines(rig, party):
            assert {"event", "level", "timestamp", "service"} <= line.keys()
            assert line["service"] == service
            if service == "site":
                assert line["site"] == party
    decided = [line for line in lines(rig, SITES[0]) if line["event"] == "decided"]
    taken = [line for line in decided if line["what"] == "takeround"]
    assert {(line["experiment"], line["round"]) for line in taken} >= {("metered", number) for number in (1, 2, 3)}
    steps = [line for line in lines(rig, COORDINATOR) if line.get("experiment") == "metered"]
    assert {line["round"] for line in steps if line.get("phase") == "running"} >= {1, 2}
    assert {line["site"] for line in steps if line["event"] == "joined"} <= set(SITES)


def konsil(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deploy.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def shut(rig: FaultRig) -> FaultRig:
    """The same consortium, with one site outside its hours from here on: what comes before needs them all."""
    hours = f"{BEGIN:%H:%M}-{BEGIN + timedelta(hours=1):%H:%M}"
    rig.kill(SHUT)
    rig.edit(SHUT, "[limits]\n", f'[limits]\nhours = "{hours}"\n')
    rig.start(SHUT)
    return rig


def test_enrolment_and_rounds_do_not_wait_for_a_site_whose_hours_begin_after_enrolment_ends(shut: FaultRig) -> None:
    shut.publish(experiment("soon", quorum=TWO, rounds={"count": 1, "enrol_within": "2h"}))
    story = shut.complete("soon", LONG)  # two hours before the enrolment's end
    assert [sorted(one.contributors) for one in story.round_list] == [list(OTHERS)]
    assert (story.sites[SHUT].state, story.sites[SHUT].reason) == ("declined", Reason.OUTSIDE_HOURS)


def test_a_site_whose_work_waits_for_its_hours_says_so_to_researcher_operator_and_coordinator(shut: FaultRig) -> None:
    shut.publish(experiment("night", quorum=TWO, rounds={"count": 1, "enrol_within": "24h"}))
    watch = konsil("experiment", "watch", "night", "--profile", shut.layout.profile)
    try:
        assert watch.stdout is not None
        line = next((line for line in watch.stdout if SHUT in line and "hours" in line), "")
        assert line.startswith(f"{SHUT} is outside-hours: its work waits for its allowed hours, which begin at ")
        status = konsil("site", "status", "--config", shut.consortium.config_of(SHUT)).communicate(timeout=LONG)[0]
        assert f"{SHUT}: outside-hours until {BEGIN:%H:%M}, broker connected" in status
        assert shut.status(SHUT)["queue"] == ["night"]
        eventually(lambda: shut.said(COORDINATOR, "ready"), what="the coordinator to be there")
        abort = konsil("experiment", "abort", "night", "--profile", shut.layout.profile)
        said = abort.communicate(timeout=LONG)[0]
        assert abort.returncode == 0, said
        eventually(lambda: shut.status(SHUT)["state"] == "idle", what="nothing to wait any more")
    finally:
        watch.kill()
        watch.communicate()
    troubled = [line for line in shut.lines(COORDINATOR) if line["event"] == "liveness" and line["site"] == SHUT]
    assert not [line for line in troubled if line["liveness"] in ("stuck", "slow")]
