"""FedNova counts by the steps that sites tell: they are noted in the log, and no more are believed than can be."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import SITES, weights
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core.effects import Aggregate, effects
from messages.reasons import Reason

NOVA = {"plan": {"strategy": "FedNova"}}


def opened(**changes: Any) -> Run:
    """Sites with ten training cases each, batches of two: five steps an epoch."""
    run = Run(**changes)
    run.join()
    run.initial()
    return run


def announced(run: Run) -> dict[str, int | None]:
    return {one.site: one.steps for one in run.decided if isinstance(one, d.UpdateAnnounced)}


def refusals(run: Run) -> list[Reason]:
    return [one.reason for one in run.decided if isinstance(one, d.Refused)]


def test_the_steps_of_each_site_go_into_the_aggregate_with_its_update() -> None:
    run = opened(**NOVA)
    for steps, site in enumerate(SITES, 3):
        run.report(site, 1, steps=steps)
    assert announced(run) == {"site-a": 3, "site-b": 4, "site-c": 5}
    (closed,) = (one for one in run.decided if isinstance(one, d.RoundClosed))
    (made,) = (one for one in effects(run.state, closed) if isinstance(one, Aggregate))
    assert [one.steps for one in made.updates] == [3, 4, 5]
    assert made.parties == 3


def test_no_other_strategy_notes_them() -> None:
    run = opened()
    run.report("site-a", 1, steps=3)
    assert announced(run) == {"site-a": None}
    assert all("steps" not in d.to_plain(one) for one in run.decided)


@pytest.mark.parametrize(
    ("training", "steps", "believed"),
    [
        ({}, 0, False),
        ({}, 1, True),
        ({}, 10, True),  # of up to twice its cases, which it may have rounded
        ({}, 11, False),
        ({"local_steps": 7}, 7, True),
        ({"local_steps": 7}, 6, False),
        ({"local_steps": 7}, 8, False),
    ],
)
def test_steps_that_the_sites_cases_cannot_yield_are_refused(
    training: dict[str, int], steps: int, believed: bool
) -> None:
    run = opened(**NOVA, training=training)
    run.wire(weights(1, steps=steps), "site-a", number=1)
    assert refusals(run) == ([] if believed else [Reason.MALFORMED])
