"""The real services under drawn faults, in virtual time: `make simulation` runs thousands of schedules, here are a few.

KEPT: seeds that once showed a fault of the product.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from simulation_mutations import MUTATIONS, ROOT
from simulation_plan import (
    COORDINATOR,
    NAMES,
    OF_BROKER,
    RESEARCHER,
    SOURCES,
    WORKS,
    Act,
    Schedule,
    Stage,
    Strike,
    draw_open_schedule,
    draw_schedule,
)
from simulation_run import run_schedule

FEW = range(1, 7)
KEPT = (24, 227)
"""Of schedules in which nobody signs."""
SECURE = (18, 76)
"""18: a power cut took a site's new secret with it. 76: a disk that was full, and an abort, left half a sum."""


@pytest.mark.parametrize("seed", [*FEW, *SECURE])
def test_whatever_strikes_an_experiment_ends_as_it_has_to_and_every_party_knows_it(seed: int) -> None:
    assert run_schedule(draw_schedule(seed)).violations == []


@pytest.mark.parametrize("seed", KEPT)
def test_a_seed_that_once_showed_a_fault_shows_none(seed: int) -> None:
    assert run_schedule(draw_open_schedule(seed)).violations == []


def slow(*strikes: Strike) -> Schedule:
    """Two rounds of three sites, in which the coordinator's work takes long."""
    sites = NAMES[:3]
    return replace(
        draw_open_schedule(0),
        sites=sites,
        kind="aggregation",
        rounds=2,
        least_sites="all",
        cases=dict.fromkeys(sites, 40),
        strict=frozenset(),
        late={},
        works=dict.fromkeys(WORKS, 5.0),
        strikes=strikes,
    )


@pytest.mark.parametrize("stage", [Stage.BUILDING, Stage.RUNNING, Stage.AGGREGATING])
def test_a_coordinator_that_is_stopped_while_its_pool_works_leaves_no_second_writer_behind(stage: Stage) -> None:
    assert run_schedule(slow(Strike(Act.STOP, COORDINATOR, stage, 1, 1.0))).violations == []


def test_a_pause_that_is_said_while_the_disk_is_full_outlasts_the_full_disk() -> None:
    full = Strike(Act.DISK_FULL, COORDINATOR, Stage.AGGREGATING, 1, 0.0, lasts=30.0)
    outcome = run_schedule(slow(full, Strike(Act.PAUSE, RESEARCHER, Stage.AGGREGATING, 1, 10.0)))
    assert outcome.struck[-1] == [Act.PAUSE.value, Stage.PAUSED.value]
    assert outcome.violations == []


def test_an_update_that_is_verified_while_the_experiment_is_finished_leaves_nothing_behind() -> None:
    finish = Strike(Act.FINISH, RESEARCHER, Stage.RUNNING, 2, 9.0)
    outcome = run_schedule(slow(finish))
    assert outcome.struck == [[Act.FINISH.value, Stage.RUNNING.value]]
    assert outcome.violations == []


def test_a_coordinator_that_is_killed_while_it_verifies_leaves_no_scratch_file_behind() -> None:
    kill = Strike(Act.KILL_BEHIND, COORDINATOR, Stage.RUNNING, 2, 0.0, step="coordinator:verifying")
    finish = Strike(Act.FINISH, RESEARCHER, Stage.RUNNING, 2, 6.0)
    assert run_schedule(slow(kill, finish)).violations == []


def test_a_site_that_first_starts_when_all_is_over_hears_so() -> None:
    schedule = replace(slow(), late={NAMES[0]: 100.0}, enrol=20.0, least_sites=3)
    finish = Strike(Act.RESUME, RESEARCHER, Stage.OVER, 0, 0.0)
    assert run_schedule(replace(schedule, strikes=(finish,))).violations == []


def test_a_seed_repeats_itself_to_the_last_delivery_and_write_in_another_process_with_other_hashes() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--only", "3"]
    other = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    told = subprocess.run(command, cwd=ROOT, env=other, capture_output=True, text=True, check=False)
    assert run_schedule(draw_schedule(3)).trace in told.stdout


def test_every_fault_of_the_broker_and_of_lines_names_its_source() -> None:
    assert {*OF_BROKER} <= {*SOURCES}
    assert all(act in SOURCES for act in Act if act.value.startswith(("line", "confirms", "messages")))


def test_every_mutation_stands_once_in_the_product() -> None:
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS) >= 25
    for one in MUTATIONS:
        assert (ROOT / one.file).read_text().count(one.before) == 1, one.name
