"""Pause, resume, abort, full disks, kills and restarts in every phase: nobody dies, nothing hangs, the bits stay.

`make interleavings` runs a thousand seeds; here are a few, and those that once showed a fault.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from interleaving_plan import Act, Anchor, Fault, draw_plan
from interleaving_run import run_plan, try_seed

FEW = range(1, 25)
SLOW = dict.fromkeys(("prepare", "evaluate", "build", "average", "verify"), 5.0)


@pytest.mark.parametrize("seed", FEW)
def test_whatever_happens_in_between_an_experiment_ends_as_the_last_word_says_with_the_bits_of_a_calm_run(
    seed: int,
) -> None:
    assert try_seed(seed).failures == []


@pytest.mark.parametrize("anchor", [Anchor.BUILDING, Anchor.ROUND_1, Anchor.AGGREGATING_1, Anchor.AGGREGATING_2])
def test_a_coordinator_that_is_stopped_while_its_pool_works_leaves_no_second_writer_behind(anchor: Anchor) -> None:
    stop = Fault(Act.STOP, anchor, 1.0)
    outcome, _ = run_plan(replace(draw_plan(0), works=SLOW, faults=(stop,), least_sites="all"))
    assert outcome.failures == []


def test_a_pause_that_is_said_while_the_disk_is_full_outlasts_the_full_disk() -> None:
    full = Fault(Act.DISK_FULL, Anchor.AGGREGATING_1, 0.0, lasts=30.0)
    pause = Fault(Act.PAUSE, Anchor.AGGREGATING_1, 10.0)
    outcome, _ = run_plan(replace(draw_plan(0), works=SLOW, faults=(full, pause), least_sites="all"))
    assert outcome.struck[-1] == "pause coordinator: aggregating 1 (paused disk-full)"
    assert outcome.failures == []


def test_a_seed_repeats_itself_turn_by_turn() -> None:
    assert try_seed(3) == try_seed(3)
