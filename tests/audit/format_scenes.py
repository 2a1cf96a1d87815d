"""What happens in the state folders of a kept format: the scripted consortium's experiments, and the pair's.

Each experiment of the scripted consortium ends (or is left) in a way of its own; `play_scripted` lists them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
from brokers import eventually
from coordinator_kit import MANIFEST, PLATFORM, counts, plain, weights
from format_rig import PAIR, STRANGER, TRAINER, LosingSite, Pair, Scripted, read_states
from gated_trainer import Gate

from coordinator.core.state import Phase
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.experiment import Experiment
from messages.names import NO_EXPERIMENT
from messages.reasons import Reason

WITHIN = {"enrol_within": 100_000.0, "train_within": 100_000.0, "grace": 50_000.0}
"""Longer than any test that takes it up will take, so that no timer decides what comes of it."""


def file(name: str, **changes: Any) -> dict[str, Any]:
    """A small experiment; `rounds` adds to what is there."""
    rounds = {"count": 2} | WITHIN | changes.pop("rounds", {})
    return plain(id=name, quorum=changes.pop("quorum", {"least_sites": "all"}), rounds=rounds, **changes)


REGIONS = {"kind": "segmentation", "channels": ["T1"]}
INVALID: dict[str, dict[str, Any]] = {
    "region": {"task": REGIONS | {"regions": {"WT": []}}},
    "overlap": {"task": REGIONS | {"activation": "softmax", "regions": {"WT": ["ED"], "TC": ["ED"]}}},
    "split": {"data": {"dataset": "glioma", "split": {"train": 0.5, "validation": 0.1, "test": 0.1}}},
    "net-value": {"net": {"name": "UNet", "dropout": 2**40}},
    "spacing": {"preprocessing": {"spacing_mm": [1.0, 0.0, 1.0]}},
    "patch": {"training": {"patch": [4, 64, 64]}},
    "either-or": {"training": {"local_epochs": 1, "local_steps": 1}},
    "loss": {"training": {"loss": "dice+ce"}},
    "quorum": {"quorum": {"least_sites": 4}},
    "least-sites": {"quorum": {"least_sites": "some"}},
    "expires": {"expires": "tomorrow"},
    "keep": {"keep_updates": "some"},
    "twice": {"sites": ["site-a", "site-a"]},
    "reserved": {"sites": ["coordinator"]},
    "outputs": {"net": {"name": "UNet", "norm": "group"}},
    "voxels": {"net": {"name": "UNet", "channels": [4, 8], "strides": [64]}},
}
"""Starts that break one rule each, by what is wrong."""


def play_scripted(folder: Path) -> None:
    """Play all experiments of the scripted consortium on an empty state folder; the coordinator is stopped at last."""
    world = Scripted(folder)
    try:
        world.start()
        _rubbish(world)
        world.join()
        _refused(world)
        for scene in (
            _complete, _selected, _codecs, _capped, _spoilt, _straggler, _failed, _aborted, _paused, _half,
        ):  # fmt: skip
            scene(world)
    finally:
        world.close()


def _start(world: Scripted, content: dict[str, Any], attempt: int = 1) -> None:
    world.say("experiment-start", kinds.ExperimentStart(experiment=content), attempt, content["id"])


def _site(world: Scripted, name: str) -> LosingSite:
    found = next(one for one in world.sites if one.name == name)
    assert isinstance(found, LosingSite)
    return found


def _rubbish(world: Scripted) -> None:
    """Bytes that are no event, and an event of a kind that does not come here: set aside."""
    bus = MemoryBus(world.broker, "site-a")
    for body in (b"\xff rubbish", b""):
        bus.publish("joined.site-a.done", body)
    bus.close()


def _refused(world: Scripted) -> None:
    """One start for each reason that a start is refused for.

    `invalid` makes pydantic's own mistake texts, most of the `invalid-…` ours.
    """
    invalid = file("invalid") | {"seed": "seven", "colour": "blue", "schema": 2, "rounds": {"count": 0}}
    del invalid["data"]
    _start(world, invalid)
    _start(world, file("invalid-task", task={"kind": "segmentation", "channels": [], "regions": {"WT": []}}))
    for name, changes in INVALID.items():
        _start(world, file(f"invalid-{name}", **changes))
    _start(world, file("unknown-net", net={"name": "HyperNet", "depth": 9}))
    _start(world, file("unknown-parameter", net={"name": "UNet", "depth": 9}))
    _start(world, file("unfit-patch", training={"patch": [63, 64, 64]}))
    _start(world, file("unknown-site", sites=["site-a", "site-z"]))
    _start(world, file("expired", expires="2020-02-29"))
    body = kinds.ExperimentStart(experiment=file("other-name"))
    world.say("experiment-start", body, experiment="another-name")
    world.say_as(STRANGER, "experiment-start", kinds.ExperimentStart(experiment=file("stranger")), "stranger")
    world.say_as("dr-a", "experiment-abort", kinds.ExperimentAbort(), "never-started")
    world.say_as("site-a", "joined", kinds.Joined(cases=counts(1), platform=PLATFORM), "never-started")
    for name in ("invalid", "unknown-net", "unfit-patch", "unknown-site", "expired", "another-name", "stranger"):
        world.told("experiment-refused", name)


def _complete(world: Scripted) -> None:
    """`done`: complete; around it repetitions, another experiment under its id, and words that come too late."""
    _start(world, file("done"))
    world.told("experiment-complete", "done")
    _start(world, Experiment.model_validate(file("done")).as_plain(), 2)
    _start(world, file("done", seed=9), 3)
    world.told("experiment-refused", "done")
    again = kinds.Joined(cases=counts(10), platform=PLATFORM)
    world.say_as("site-a", "joined", again, "done")
    world.say_as("site-a", "joined", again, "done", attempt=2)
    world.say_as("site-b", "weights-ready", weights(1), "done", number=1, attempt=2)
    world.say_as("site-b", "round-failed", kinds.RoundFailed(reason=Reason.NAN_LOSS), "done", number=2)
    world.say("experiment-pause", kinds.ExperimentPause(), 4, "done")


def _selected(world: Scripted) -> None:
    """`selected`: the first round's model is the best on validation, and not the final one."""
    for site in world.sites:
        site.judged = {"final": 0.25, "selected": 0.75}
    _start(world, file("selected", rounds={"count": 3}))
    world.told("experiment-complete", "selected")
    for site in world.sites:
        site.judged = {"final": 0.5, "selected": 0.5}
    _start(world, file("last", rounds={"count": 3}, evaluation={"select_by": "last", "every": 2}))
    world.told("experiment-complete", "last")


def _codecs(world: Scripted) -> None:
    """`exact`, `bfloat16`, `difference`; of the last one only the last round's updates are kept."""
    _start(world, file("exact", wire={"codec": "exact"}))
    world.told("experiment-complete", "exact")
    _start(world, file("bfloat16", wire={"codec": "bfloat16"}))
    world.told("experiment-complete", "bfloat16")
    _start(world, file("difference", wire={"codec": "bfloat16-difference"}, keep_updates=1))
    world.told("experiment-complete", "difference")


def _capped(world: Scripted) -> None:
    """`capped`: site-c has two thirds of the cases and weighs a half. `equal`: the same without cases."""
    sites = ["site-b", "site-c"]
    for name, plan in (("capped", {"weight_cap": 0.5}), ("equal", {"weight_by": "equal"})):
        _start(world, file(name, sites=sites, plan=plan))
        world.told("experiment-complete", name)


def _spoilt(world: Scripted) -> None:
    """`spoilt`: an update with NaN, one that is not what was sealed, and a good one."""

    def nan(_number: int, buffer: bytearray) -> bytearray:
        buffer[:4] = np.float32("nan").tobytes()
        return buffer

    first, second = world.sites[:2]
    plain_spoil, first.spoil = first.spoil, nan
    second.spoil, second.spoil_seal = lambda _number, buffer: bytearray(len(buffer)), False
    _start(world, file("spoilt", quorum={"least_sites": 1}, rounds={"count": 1}))
    world.told("experiment-complete", "spoilt")
    first.spoil = second.spoil = plain_spoil
    second.spoil_seal = True


def _straggler(world: Scripted) -> None:
    """`straggler`: site-c's chunks never come, the rounds close without it, and it speaks of them too late."""
    lost = set(range(MANIFEST.chunks))
    _site(world, "site-c").losing |= {("straggler", 1): lost, ("straggler", 2): {1}}
    _start(world, file("straggler", quorum={"least_sites": 2, "least_case_share": 0.4}, rounds={"grace": 0.3}))
    world.told("experiment-complete", "straggler")
    world.say_as("site-c", "weights-ready", weights(1), "straggler", number=1, attempt=2)


def _failed(world: Scripted) -> None:
    """`failed`: one site cannot train, one's chunks are lost; the deadline is extended once, then it is given up.

    `unenrolled`: one of two sites never answers.
    """
    _site(world, "site-b").losing["failed", 1] = {0}
    _site(world, "site-c").losing["failed", 1] = {0}
    _start(world, file("failed", rounds={"train_within": 0.5, "extensions": 1}))
    world.told("round-start", "failed")
    failed = kinds.RoundFailed(reason=Reason.CUDA_OOM)
    _site(world, "site-b").say("round-failed", failed, "failed", 1)
    world.told("experiment-failed", "failed")
    _site(world, "site-a").deaf_to.add("unenrolled")
    _start(world, file("unenrolled", sites=["site-a", "site-b"], rounds={"enrol_within": 0.2}))
    world.told("experiment-failed", "unenrolled")


def _aborted(world: Scripted) -> None:
    """`aborted`: in its first round, while updates are under way; first by one who may not."""
    for site in ("site-b", "site-c"):
        _site(world, site).losing["aborted", 1] = {0, 2}
    _start(world, file("aborted"))
    _until_reported(world, "aborted", 1, ("site-a",))
    world.say_as("dr-c", "experiment-abort", kinds.ExperimentAbort(), "aborted")
    world.say("experiment-abort", kinds.ExperimentAbort(), 2, "aborted")
    world.told("experiment-aborted", "aborted")


def _paused(world: Scripted) -> None:
    """`paused`: in its first round, of which site-a's update is there; paused, resumed, paused; then site-a leaves."""
    for site in ("site-b", "site-c"):
        _site(world, site).losing["paused", 1] = {3}
    _start(world, file("paused"))
    _until_reported(world, "paused", 1, ("site-a",))
    for attempt, word in ((1, "pause"), (2, "resume"), (3, "pause")):
        body = kinds.ExperimentPause() if word == "pause" else kinds.ExperimentResume()
        world.say(f"experiment-{word}", body, attempt + 10, "paused")
    world.until_state("paused", "paused twice", lambda state: state.phase is Phase.PAUSED and state.pauses == 2)
    world.sites[0].say("leaving", kinds.Leaving(), NO_EXPERIMENT, 0)
    world.until_state("paused", "without site-a", lambda state: state.members["site-a"].away)


def _half(world: Scripted) -> None:
    """`half`: its second round is open and lacks chunks of site-c's update; the coordinator was stopped twice in it."""
    _site(world, "site-c").losing["half", 2] = {1, 2}
    _start(world, file("half"))
    _until_reported(world, "half", 2, ("site-a", "site-b"))
    eventually(lambda: _site(world, "site-c").sent("half", 2), what="the update of site-c")
    world.until_state("half", "announced", lambda state: state.round.parts["site-c"].update is not None)
    before = sum(1 for one in world.heard if one.kind == "round-start")
    world.stop()
    world.start()
    world.news.until(lambda: sum(1 for one in world.heard if one.kind == "round-start") > before, "the round again")
    world.stop()


def _until_reported(world: Scripted, experiment: str, number: int, sites: tuple[str, ...]) -> None:
    world.until_state(
        experiment,
        f"round {number} with {sites}",
        lambda state: state.round is not None and (state.round.number, state.round.reported) == (number, sites),
    )


def pair_file(name: str) -> dict[str, Any]:
    """What the pair trains: three rounds, each site's update following from all rounds before (`--memory`)."""
    return file(name, seed=11, sites=list(PAIR), rounds={"count": 3})


def play_pair(folder: Path) -> None:
    """Play the pair's experiments and stop it in mid-round: each party's state then lies under `folder`.

    `done` is complete. Of `half` round 2 is open: site-a's update is trained, sealed and announced without a receipt
    (the coordinator was stopped before), and site-b was stopped in its training.
    """
    gate = Gate(folder.with_name("gate"))
    command = (*gate.trainer, *TRAINER[2:])
    pair = Pair(folder, command)
    try:
        pair.start()
        pair.start_experiment(pair_file("done"))
        pair.complete("done")
        for site in PAIR:
            gate.hold(site, 2)
        pair.start_experiment(pair_file("half"))
        for site in PAIR:
            eventually(lambda name=site: _trains(pair, name, 2), what=f"{site} in round 2")  # type: ignore[misc]
        state = read_states(folder / "coordinator")["half"]
        assert state.round is not None
        assert (state.round.number, state.round.reported) == (2, ())
        pair.stop_coordinator()
        gate.open("site-a")
        spool = folder / "site-a" / "spool.sqlite"
        eventually(lambda: "weights-ready" in _waiting(spool), what="site-a's update announced")
    finally:
        pair.close()


def _trains(pair: Pair, site: str, number: int) -> bool:
    told = pair.agents[site].status()
    return told["state"] == "training" and any(
        one["experiment"] == "half" and one["round"] == number for one in told["experiments"]
    )


def _waiting(spool: Path) -> list[str]:
    """Kinds of the events that wait for a receipt, of an agent that runs."""
    with contextlib.closing(sqlite3.connect(f"{spool.as_uri()}?mode=ro", uri=True)) as db:
        return [row[0] for row in db.execute("SELECT kind FROM outbox ORDER BY number")]
