"""FedNova counts by the steps that sites tell: they are noted in the log, and no more are believed than can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coordinator_kit import ARRAYS, MANIFEST, SITES, weights
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core.effects import Aggregate, Contribution, effects
from coordinator.work.blobs import Blobs
from coordinator.work.pool import average, memory_manifest
from messages.reasons import Reason
from messages.strategies import AnyStrategy, FedDynSpec, FedNovaSpec
from messages.tensors.layout import chunk_digests, seal_transfer, view_tensors, write_into

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


@pytest.mark.parametrize(
    ("strategy", "moved"),
    [
        (FedNovaSpec(), 4.0),  # 2 steps on average, of 2 on average
        (FedDynSpec(), 7.5),  # the mean of 5, and half of it again: two of four sites are here
    ],
)
def test_the_pool_hands_steps_and_the_number_of_sites_on_to_the_strategy(
    tmp_path: Path, strategy: AnyStrategy, moved: float
) -> None:
    blobs = Blobs(tmp_path)

    def keep(more: float) -> str:
        buffer = bytearray(MANIFEST.nbytes)
        write_into(ARRAYS | {"conv.weight": ARRAYS["conv.weight"] + np.float32(more)}, MANIFEST, memoryview(buffer))
        seal = seal_transfer(MANIFEST, chunk_digests(MANIFEST, buffer))
        path = blobs.scratch_file("exp-1", "made")
        path.write_bytes(buffer)
        blobs.keep_blob("exp-1", seal, path)
        return seal

    model = keep(0.0)
    sent = (("site-a", 1.0, 1), ("site-b", 9.0, 3))
    updates = tuple(Contribution(site, keep(more), 10, MANIFEST.chunk_bytes, steps=steps) for site, more, steps in sent)
    made = Aggregate("exp-1", 1, MANIFEST, updates, "equal", 1.0, model, master=model, strategy=strategy, parties=4)
    layout = memory_manifest(made)
    out, memory = np.zeros(MANIFEST.nbytes, np.uint8), None if layout is None else np.zeros(layout.nbytes, np.uint8)
    assert average(blobs, made, out, None, memory)
    np.testing.assert_array_equal(view_tensors(MANIFEST, out)["conv.weight"], ARRAYS["conv.weight"] + np.float32(moved))
