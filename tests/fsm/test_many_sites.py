"""What one site's message costs does not grow with the number of sites: counted in calls and bytes, never in time."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from coordinator_kit import CONSORTIUM, MANIFEST, PLATFORM, counts, plain, weights

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.evolve import fold_decisions
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState, Phase
from coordinator.loop.file_checks import check_file
from coordinator.work.aggregate import aggregate
from messages import kinds
from messages.envelope import Author
from messages.tensors.layout import manifest_of


def calls(work: Callable[[], Any]) -> int:
    """How many Python functions, generators included, were entered or gone on with."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    gc.disable()  # what other tests left to be collected is not this work's
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


class Many:
    """An experiment of so many sites."""

    def __init__(self, count: int) -> None:
        self.sites = tuple(f"site-{number:04}" for number in range(count))
        self.state: ExperimentState | None = None
        start = kinds.ExperimentStart(experiment=plain(sites=list(self.sites)))
        self.put(self.wire("experiment-start", start, "dr-a"))

    def wire(self, kind: str, body: kinds.Body, sender: str, number: int = 0) -> i.Received:
        event = Author(CONSORTIUM, sender).write_event(
            kind, body, time=0.0, experiment="exp-1", round_number=number, seq=1
        )
        return i.Received.of_event(event, time=1000.0, admitted=self.sites, file_check=check_file(event))

    def put(self, given: i.AnyInput) -> tuple[d.AnyDecision, ...]:
        decided = decide(self.state, given)
        self.state = fold_decisions(self.state, decided)
        return decided

    def join(self, site: str) -> None:
        self.put(self.wire("joined", kinds.Joined(cases=counts(10), platform=PLATFORM), site))

    def report(self, site: str) -> list[int]:
        """Calls for accepting the round, announcing the update, and its being stored."""
        steps: tuple[i.AnyInput, ...] = (
            self.wire("round-accepted", kinds.RoundAccepted(), site, 1),
            self.wire("weights-ready", weights(1), site, 1),
            i.UpdateStored(time=1001.0, site=site, round=1, attempt=1),
        )
        return [calls(partial(self.put, given)) for given in steps]

    def cost_of_a_part(self) -> list[int]:
        """Of the last site but one: a scan for who is missing would go through all of them."""
        *others, one, last = self.sites
        for site in others:
            self.join(site)
        joined = calls(partial(self.join, one))
        self.join(last)
        self.put(i.Initialised(time=1000.0, manifest=MANIFEST, seal="cd" * 32, digest="0" * 64))
        assert self.state is not None
        assert self.state.phase is Phase.RUNNING
        for site in others:
            self.report(site)
        return [joined, *self.report(one)]


def test_a_sites_part_in_a_round_costs_the_same_among_10_sites_and_among_500() -> None:
    Many(5).cost_of_a_part()  # what is made on first use
    few, many = Many(10).cost_of_a_part(), Many(500).cost_of_a_part()
    assert all(few)
    assert many == few


def test_averaging_many_updates_holds_no_list_of_all_their_tensors() -> None:
    sites, tensors = 300, 200
    manifest = manifest_of({f"block.{number}": np.ones(4, np.float32) for number in range(tensors)})
    update = np.zeros(manifest.nbytes, np.uint8)
    out = np.zeros(manifest.nbytes, np.uint8)
    tracemalloc.start()
    try:
        aggregate(manifest, [(1 / sites, update)] * sites, out, threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A tensor's own record takes more than 100 bytes.
    assert peak < 100 * sites * tensors / 4
