"""One researcher's many experiments at the coordinator: so many are open, and their work takes turns with others'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coordinator_rig
import pytest
from coordinator_kit import build, plain, received
from coordinator_rig import Consortium, running

from coordinator.config import Limits
from coordinator.core.effects import Initialise
from coordinator.core.machine import decide
from coordinator.work.blobs import Blobs
from coordinator.work.pool import Work
from messages import kinds
from messages.experiment import Experiment
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason


def start(name: str, **changes: Any) -> kinds.ExperimentStart:
    return kinds.ExperimentStart(experiment=plain(id=name, **changes))


@pytest.fixture
def capped(consortium: Consortium, monkeypatch: pytest.MonkeyPatch) -> Consortium:
    """A coordinator that lets each researcher have two open experiments, and three in a day; no site answers."""
    original = coordinator_rig.config

    def config(folder: Path) -> Any:
        found = original(folder)
        limits = found.limits.model_copy(update={"open_per_researcher": 2, "starts_per_day": 3})
        return found.model_copy(update={"limits": limits})

    monkeypatch.setattr(coordinator_rig, "config", config)
    consortium.start()
    return consortium


def refusals(consortium: Consortium) -> dict[str, Reason]:
    found = {one.experiment: one.body for one in consortium.heard if one.kind == "experiment-refused"}
    return {name: body.reason for name, body in found.items() if isinstance(body, kinds.ExperimentRefused)}


def test_a_researcher_has_only_so_many_open_experiments_and_is_told(capped: Consortium) -> None:
    for name in ("e1", "e2", "e3"):
        capped.say("experiment-start", start(name), experiment=name)
    capped.until("experiment-refused")
    assert refusals(capped) == {"e3": Reason.TOO_MANY_EXPERIMENTS}
    assert sorted(running(capped).shell.steps.states) == ["e1", "e2"]
    capped.say("experiment-abort", kinds.ExperimentAbort(), experiment="e1")
    capped.until("experiment-aborted")
    capped.say("experiment-start", start("e4"), experiment="e4")
    capped.until("experiment-accepted", 3)
    capped.say("experiment-abort", kinds.ExperimentAbort(), experiment="e4")
    capped.until("experiment-aborted", 2)
    capped.say("experiment-start", start("e5"), experiment="e5")  # the fourth in a day
    capped.until("experiment-refused", 2)
    assert refusals(capped)["e5"] is Reason.TOO_MANY_EXPERIMENTS


def test_a_start_that_comes_again_is_no_further_experiment(capped: Consortium) -> None:
    for attempt, name in enumerate(("e1", "e2", "e2"), 1):
        capped.say("experiment-start", start(name), experiment=name, attempt=attempt)
    capped.say("experiment-pause", kinds.ExperimentPause(), experiment="e2")
    capped.until("experiment-paused")
    assert refusals(capped) == {}


def test_the_refusal_follows_from_the_input_alone() -> None:
    given = received("experiment-start", start("exp-1"), "dr-a", 1.0)
    assert type(decide(None, given)[0]).__name__ == "Accepted"
    refused = decide(None, given.model_copy(update={"full": True}))[0]
    assert getattr(refused, "reason", None) is Reason.TOO_MANY_EXPERIMENTS


def test_initial_models_are_built_in_turns_of_the_researchers(tmp_path: Path) -> None:
    clock, built = VirtualClock(), list[str]()

    def slowly(experiment: Experiment, out: Path, manifest: Path, limits: Limits) -> None:
        clock.sleep(5.0)
        built.append(experiment.id)
        build(experiment, out, manifest, limits)

    def body() -> None:
        limits = Limits(disk_reserve=0)
        owner = {f"many-{number}": "dr-a" for number in range(30)} | {"other-0": "dr-b", "other-1": "dr-b"}
        work = Work(Blobs(tmp_path), limits, lambda *_: None, clock, slowly, owner.__getitem__)
        for name in owner:
            work.make_initial_model(Initialise(Experiment.model_validate(plain(id=name))))
        clock.sleep(200.0)

    clock.run(body)
    assert built[:5] == ["many-0", "other-0", "many-1", "other-1", "many-2"]
    assert len(built) == 32
