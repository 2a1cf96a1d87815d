"""The chaos suite's plans and steps, and a bounded part of its run; all of it: `make chaos`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import chaos_plan
import pytest
from brokers import PATIENCE, need_broker
from chaos_plan import BROKERS, DEATHS, LINE, OFTEN, SERVICE, TRAINER, is_torch, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.core.inputs import OWN_KINDS
from coordinator.core.machine import TABLE
from messages.ground import crash
from site_agent.core import decisions
from site_agent.training import protocol

ROOT = Path(__file__).resolve().parents[2]
BOUNDED = (7, 36)
"""Of the full run with seed 1; of one shape, so that one consortium and one calm run serve both."""

EXCEPTIONS = {
    "ignore", "prepare", "recount", "decline", "hold", "drop", "passby", "resend", "redo", "giveup", "retry",
    "suspend", "recover", "switch", "heed", "tellstatistics", "configure",
    "awaitmasking", "keepinside", "leavesecure", "maskagain", "takemail", "takestep", "tellsecure", "tryagain",
}  # fmt: skip
"""Decisions of an agent that a calm run does not come to: what faults and operators cause, statistics, and secure
rounds, in which `test_secure_killed_sites` kills the sites."""


def test_each_decision_of_a_calm_run_is_a_step_at_which_an_agent_is_killed() -> None:
    decided = {one.__name__.lower() for one in get_args(decisions.Decision)}
    steps = {step.removeprefix("agent:") for step in crash.AGENT}
    assert steps - {"fetching", "sending"} == decided - EXCEPTIONS


def test_each_entry_that_a_calm_run_writes_is_a_step_at_which_the_coordinator_is_killed() -> None:
    causes = {kind for _phase, kind in TABLE} | set(OWN_KINDS)
    uncalm = {
        "experiment-abort", "experiment-pause", "experiment-resume", "declined", "leaving", "hello", "round-failed",
        "initialisation-failed", "update-bad", "aggregation-failed", "timer-fired", "outage", "disk-full",
        "disk-free", "handling-failed", "experiment-finish", "experiment-exclude", "barred",
        "statistics-ready", "secure-complaint", "secure-consent", "secure-figures", "secure-keys", "secure-reveal",
        "secure-shares", "sum-refused",
    }  # fmt: skip
    steps = {step.removeprefix("coordinator:") for step in crash.COORDINATOR}
    assert steps - {"sending-model", "verifying", "aggregating"} == causes - uncalm


def test_each_answer_of_a_trainer_is_a_step_at_which_it_is_killed() -> None:
    answers = {one.model_fields["kind"].default for one in get_args(protocol.Reply)}
    answers -= {"failed", "progress", "checkpoint"}  # the last one only where an operator asks for them
    answers -= {"measured"}  # only where statistics are asked for
    steps = {step.removeprefix("trainer:") for step in crash.TRAINER}
    assert steps - {"training", "writing"} == answers


@pytest.mark.parametrize("seed", [1, 2, 99])
def test_a_full_run_strikes_at_every_step_with_every_kind_and_mostly_waits_for_all_sites(seed: int) -> None:
    schedules = [plan(seed, number, torch=is_torch(number, 200, 10)) for number in range(200)]
    faults = [fault for one in schedules for fault in one.faults]
    assert {fault.step for fault in faults if fault.kind == "step"} == set(crash.STEPS)
    assert {fault.kind for fault in faults} == {"step", *SERVICE, *TRAINER, *BROKERS, *LINE}
    assert {fault.party for fault in faults} == {*chaos_plan.PARTIES, chaos_plan.BROKER}
    assert sum(one.everybody for one in schedules) >= 0.8 * len(schedules)
    assert sum(one.shape.torch for one in schedules) == 10


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 10_000), st.booleans())
def test_a_plan_follows_from_seed_and_number_and_kills_each_trainer_once_at_most(
    seed: int, number: int, torch: bool
) -> None:
    one = plan(seed, number, torch=torch)
    assert one == plan(seed, number, torch=torch)
    assert 1 <= len(one.faults) <= 4
    deaths = [fault.party for fault in one.faults if fault.kind in DEATHS or fault.step in crash.TRAINER]
    assert len(deaths) == len(set(deaths))
    assert all(fault.count <= OFTEN.get(fault.step, 1) for fault in one.faults)


WALKER = """
from messages.ground import crash
for number in range(3):
    crash.pass_step("agent:join")
    crash.pass_step("agent:keep")
    print(number, flush=True)
"""


def walk(at: Path) -> tuple[int, int]:
    """Exit status of a process that passes two steps three times, and how many times it did."""
    done = subprocess.run(
        [sys.executable, "-c", WALKER], env={crash.AT: str(at), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, len(done.stdout.splitlines())


def test_an_armed_process_dies_at_the_named_step_and_what_comes_after_it_lives(tmp_path: Path) -> None:
    at = tmp_path / "at"
    assert walk(at) == (0, 3)
    at.write_text("agent:keep 2")
    assert walk(at) == (-9, 1)
    assert not at.exists()
    assert walk(at) == (0, 3)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_few_schedules_of_faults_end_with_the_calm_runs_bits_and_leave_nothing_behind() -> None:
    need_broker()
    command = [sys.executable, "-m", "tests.chaos", "--schedules", "200", "--torch", "0", "--seed", "1", "--json"]
    command += ["--jobs", "1"] + [word for number in BOUNDED for word in ("--only", str(number))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1700)
    counts = json.loads(done.stdout)
    assert counts["failures"] == [], done.stderr
    assert (counts["schedules"], counts["not_run"]) == (len(BOUNDED), 0)
    assert counts["compared"] >= 0.8 * len(BOUNDED)
    assert counts["faults"] >= 2 * len(BOUNDED)
