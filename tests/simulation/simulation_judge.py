"""What must hold once a schedule is over: of the journal, the models, the files, the beliefs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulation_plan import COORDINATOR, Schedule
from simulation_secure import MASKABLE, sum_masked
from simulation_watch import Watch

from coordinator.core import decisions as d
from coordinator.core.effects import needed_blobs
from coordinator.core.state import CONSENT, KEYS, MASKED, ExperimentState, Phase
from coordinator.record.journal import ASIDE, STEP, open_readonly
from coordinator.record.recovery import read_step, recover_states
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from messages.chain import Entry
from nets.digest import arrays_digest
from site_agent.training.null import round_addend

Arrays = Mapping[str, NDArray[Any]]
DISCOUNTS: Mapping[str, Callable[[int], float]] = {
    "sqrt": lambda late: 1 / float(np.sqrt(1 + late)),
    "linear": lambda late: 1 / (1 + late),
    "none": lambda late: 1.0,
}
MODEL: Arrays = {"conv.weight": np.arange(400, dtype=np.float32).reshape(10, 40), "norm.count": np.array(3)}
"""The initial model of every schedule: two chunks of 1024 bytes."""


@dataclass
class Rounds:
    """What the journal says of the rounds."""

    contributors: list[dict[str, int]] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    """Of the models: the initial one first."""
    staleness: list[dict[str, int]] = field(default_factory=list)
    weighed: list[dict[str, int]] = field(default_factory=list)
    """Of secure rounds: by site that masks, its weight."""
    void: int = 0
    """Secure rounds without a sum: nobody contributed, and the model went on."""
    compared: int = 0
    """Models that were worked out anew, or recomputed from the updates."""


def train_cases(cases: int) -> int:
    """Training cases of a site that has so many in all (`NullTrainer`)."""
    return cases - max(1, cases // 10) - max(1, cases // 5)


def judge_journal(
    folder: Path, schedule: Schedule, live: ExperimentState | None, watch: Watch, *, rubbish: bool
) -> Rounds:
    """Recover, verify, replay; and work out each model from what its round's event names.

    Args:
        live: the experiment's state as the coordinator had it last.
        rubbish: whether somebody sent what has to be set aside.
    """
    entries = list(open_readonly(folder))
    if any(entry.type == ASIDE for entry in entries) and not rubbish:
        watch.fail("an input was set aside")
    rounds = Rounds()
    for step in replay(entries, Blobs(folder / "blobs")):
        if not step.agrees:
            watch.fail(f"replay: {step.problem}")
        check = step.aggregate
        rounds.compared += check is not None and check.status is Status.RECOMPUTED
        if check is not None and check.status is Status.MISSING:
            watch.fail(f"updates of round {check.round} that are to be kept are gone")
    if schedule.masks:
        _read_secure(entries, rounds, watch)
    else:
        _read_rounds(entries, rounds, watch, schedule.buffer if schedule.kind == "asynchronous" else None)
    least = len(schedule.sites) if schedule.least_sites == "all" else int(schedule.least_sites)
    for number, used in enumerate(rounds.contributors, 1):
        if schedule.kind == "asynchronous":
            _judge_buffer(schedule, number, used, rounds.staleness[number - 1], watch)
        elif used and len(used) < (1 if schedule.kind == "sequential" else least):
            watch.fail(f"round {number} closed with {len(used)} sites, and the quorum is {least}")
    if schedule.plain:
        _judge_models(schedule, rounds, watch)
    for number, digests in sorted(watch.models.items()):
        known = rounds.digests[number - 1] if number <= len(rounds.digests) else None
        if digests != {known} and schedule.codec == "float32":
            watch.fail(f"round {number} was trained from a model that is not its own")
    if live is not None and recover_states(entries).get("exp-1") != live:
        watch.fail("the journal recovers to another state than the coordinator had")
    return rounds


def _judge_buffer(schedule: Schedule, number: int, used: dict[str, int], stale: dict[str, int], watch: Watch) -> None:
    if len(used) != schedule.buffer:
        watch.fail(f"round {number} closed with {len(used)} updates, and the buffer is {schedule.buffer}")
    if any(count > schedule.max_staleness or count >= number for count in stale.values()):
        watch.fail(f"round {number} took updates that are too stale: {stale}")


def _read_rounds(entries: list[Entry], rounds: Rounds, watch: Watch, buffer: int | None) -> None:
    """`buffer`: a round closes with the first so many updates; None: with all that are here."""
    taken: dict[str, None] = {}
    closed: dict[str, int] = {}
    for decision in _list_decisions(entries):
        if isinstance(decision, d.InitialModel):
            rounds.digests.append(decision.digest)
        elif isinstance(decision, d.RoundStarted):
            going = decision.going_on if decision.opening == 1 else taken
            taken = {site: None for site in taken if site in going}
        elif isinstance(decision, d.UpdateTaken):
            taken[decision.site] = None
        elif isinstance(decision, d.UpdateAnnounced | d.SiteFailed | d.UpdateLeftOut | d.Excluded):
            taken.pop(decision.site, None)
        elif isinstance(decision, d.RoundClosed):
            closed = decision.contributors
            if set(closed) != set(list(taken)[:buffer]):
                watch.fail(f"round {decision.number} closes with {sorted(closed)}, and {sorted(taken)} are here")
        elif isinstance(decision, d.RoundCompleted):
            if decision.number != len(rounds.contributors) + 1:
                watch.fail(f"round {decision.number} is complete after {len(rounds.contributors)} rounds")
            if decision.contributors != closed:
                named = sorted(decision.contributors)
                watch.fail(f"round {decision.number} names {named}, and closed with {sorted(closed)}")
            rounds.contributors.append(dict(decision.contributors))
            rounds.digests.append(decision.digest)
            rounds.staleness.append(dict(decision.staleness))


def _read_secure(entries: list[Entry], rounds: Rounds, watch: Watch) -> None:
    """The same of secure rounds, in which those count whose updates are here when the closing is said."""
    here: dict[str, None] = {}
    named: set[str] = set()
    weighed: dict[str, int] = {}
    for decision in _list_decisions(entries):
        if isinstance(decision, d.InitialModel):
            rounds.digests.append(decision.digest)
        elif isinstance(decision, d.RoundStarted):
            if decision.step in (KEYS, MASKED):
                here = {}
            elif decision.step == CONSENT:
                named = set(here)
            weighed = decision.weighed or weighed
        elif isinstance(decision, d.UpdateTaken):
            here[decision.site] = None
        elif isinstance(decision, d.RoundClosed):
            if set(decision.contributors) != named:
                told = sorted(decision.contributors)
                watch.fail(f"round {decision.number} closes with {told}, and {sorted(named)} were to be summed")
        elif isinstance(decision, d.RoundVoided | d.RoundCompleted):
            if decision.number != len(rounds.contributors) + 1:
                watch.fail(f"round {decision.number} ends after {len(rounds.contributors)} rounds")
            made = isinstance(decision, d.RoundCompleted)
            rounds.void += not made
            rounds.contributors.append(dict(decision.contributors) if made else {})
            rounds.digests.append(decision.digest if made else rounds.digests[-1])
            rounds.staleness.append({})
            rounds.weighed.append(weighed)


def _list_decisions(entries: list[Entry]) -> Iterator[d.AnyDecision]:
    for entry in entries:
        if entry.type == STEP:
            yield from read_step(entry)[1]


def _judge_models(schedule: Schedule, rounds: Rounds, watch: Watch) -> None:
    """Each model is the mean of what its contributors make of the one before: nothing lost, doubled or late."""
    model: Arrays = MASKABLE if schedule.masks else MODEL
    made = [model]
    for number, used in enumerate(rounds.contributors, 1):
        if any(count != train_cases(schedule.cases[site]) for site, count in used.items()):
            watch.fail(f"round {number} weighs by other cases: {used}")
        if schedule.kind == "asynchronous":
            model = _make_buffered(schedule, number, rounds, made)
        elif schedule.masks:
            model = _make_summed(schedule, number, rounds, model) if used else model
        else:
            model = _make_model(schedule, number, used, model, rounds.digests[number - 1])
        made.append(model)
        rounds.compared += 1
        if arrays_digest(model) != rounds.digests[number]:
            watch.fail(f"the model of round {number} is not the mean of {sorted(used)}")
            return


def _make_model(schedule: Schedule, number: int, used: Mapping[str, int], model: Arrays, digest: str) -> Arrays:
    equal = schedule.kind == "aggregation" and schedule.weight_by == "equal"
    weights = {site: 1.0 if equal else float(used[site]) for site in sorted(used)}
    whole = sum(weights.values())
    made: dict[str, NDArray[Any]] = {}
    for name, array in model.items():
        total = np.zeros(array.shape)
        for site, weight in weights.items():
            step = round_addend(schedule.seed % 2**31, site, number, digest)
            total = total + (array + step.astype(array.dtype)).astype(np.float64) * (weight / whole)
        made[name] = np.rint(total).astype(array.dtype) if array.dtype.kind in "iu" else total.astype(array.dtype)
    return made


def _make_summed(schedule: Schedule, number: int, rounds: Rounds, model: Arrays) -> Arrays:
    summed, digest = tuple(sorted(rounds.contributors[number - 1])), rounds.digests[number - 1]
    step_of = partial(round_addend, schedule.seed % 2**31, round_number=number, memory=digest)
    return sum_masked(model, rounds.weighed[number - 1], summed, step_of)


def _make_buffered(schedule: Schedule, number: int, rounds: Rounds, made: list[Arrays]) -> Arrays:
    """What the paper's algorithm makes: the newest model, moved by each update's change from its own base."""
    used, stale = rounds.contributors[number - 1], rounds.staleness[number - 1]
    weights = {site: 1.0 if schedule.weight_by == "equal" else float(used[site]) for site in sorted(used)}
    whole = sum(weights.values())
    model: dict[str, NDArray[Any]] = {}
    for name, array in made[-1].items():
        total, left, counts = np.zeros(array.shape), 1.0, array.dtype.kind in "iu"
        for site, weight in weights.items():
            late = stale.get(site, 0)
            old, began = made[number - 1 - late][name], number - late
            step = round_addend(schedule.seed % 2**31, site, began, rounds.digests[began - 1])
            trained = (old + step.astype(array.dtype)).astype(np.float64)
            share = weight / whole * DISCOUNTS[schedule.staleness](late)
            total, left = total + (trained if counts else trained - old) * share, left - share
        moved = total + max(left, 0.0) * array if counts else total + array
        model[name] = np.rint(moved).astype(array.dtype) if counts else moved.astype(array.dtype)
    return model


def judge_files(folder: Path, schedule: Schedule, state: ExperimentState | None, watch: Watch) -> None:
    """Nothing is left but what the retention rules name, and what is to stay is there."""
    blobs = folder / COORDINATOR / "blobs"
    there = {path.name for path in blobs.glob("exp-1/*")}
    if parts := sorted(name for name in there if name.endswith((".part", ".have", ".new"))):
        watch.fail(f"unfinished files of the coordinator are left: {parts}")
    if state is not None and state.phase is Phase.COMPLETE:
        needed = set(needed_blobs(state))
        if needed - there:
            watch.fail(f"{len(needed - there)} blobs that are to stay are gone")
        if there - needed:
            watch.fail(f"{len(there - needed)} blobs are left that nobody needs")
    for site in schedule.sites:
        for place in ("globals", "updates"):
            left = sorted(path.name for path in (folder / site / place).glob("*"))
            if left:
                watch.fail(f"{site} keeps {left} in {place}")
