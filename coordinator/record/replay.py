"""Replay: verify the chain, decide anew from the inputs, recompute every aggregate, and compare with the record."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from coordinator.core import decisions as d
from coordinator.core.effects import Aggregate, effects
from coordinator.core.evolve import evolve
from coordinator.core.logic import LOGIC, explain_unknown
from coordinator.core.machine import IllegalInput, decide
from coordinator.core.models import models_after, name_models
from coordinator.core.state import ExperimentState
from coordinator.record import story
from coordinator.record.clocks import explain_entry_time
from coordinator.record.journal import STEP
from coordinator.record.numbering import read_logic
from coordinator.record.recovery import read_step
from coordinator.record.upcasting import upcast_input
from coordinator.work.blobs import Blobs, Buffer, create_mapped
from coordinator.work.pool import average, memory_manifest
from coordinator.work.unmasking import open_updates
from messages import chain
from messages.chain import Entry
from messages.ground.errors import LogBroken
from messages.tensors import layout
from messages.tensors.layout import Manifest
from nets.digest import model_digest


class Status(StrEnum):
    """How far a round's aggregate can be checked."""

    RECOMPUTED = "recomputed"
    DIGEST_ONLY = "digest-only"
    """The updates were not to be kept: their seals and the aggregate's digest stand in the log."""
    MISSING = "missing"
    """Updates that should be kept are not there, or were changed."""


@dataclass(frozen=True, slots=True)
class AggregateCheck:
    """What became of one round's aggregate."""

    round: int
    status: Status
    agrees: bool
    problem: str = ""
    contributors: Mapping[str, int] = field(default_factory=dict)
    """Site → training cases that it used, as averaged."""
    model_digest: str = ""
    """Of the model that the round made, as recorded."""


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """One entry, replayed. `who` and `what` tell it in plain language; `problem` says what does not follow."""

    entry: Entry
    agrees: bool
    problem: str
    who: str
    what: str
    aggregate: AggregateCheck | None = None


def replay(entries: Iterable[Entry], blobs: Blobs | None = None) -> Iterator[ReplayStep]:
    """Replay a journal, an export, or the entries of one experiment.

    Args:
        entries: in their order.
        blobs: the coordinator's blobs; None: aggregates are not recomputed.

    Raises:
        LogBroken: an entry was changed or is missing; names it.
    """
    states: dict[str, ExperimentState] = {}
    waiting: dict[str, Aggregate] = {}
    listed = list(entries)
    final = _final_states(listed) if blobs is not None else {}
    whole = bool(listed) and listed[0].number == 1 and listed[-1].number == len(listed)
    for entry in chain.verify(listed, whole_journal=whole):
        logic = read_logic(entry) if entry.type == STEP else LOGIC
        if (unknown := explain_unknown(logic)) is not None:
            advice = f"{unknown}: replay it with the Konsil version that wrote it, or a newer one"
            yield ReplayStep(entry, False, advice, story.COORDINATOR, "a step that this version cannot decide anew")
            return
        who, what = story.tell_entry(entry)
        if entry.type != STEP:
            yield ReplayStep(entry, True, "", who, what)
            continue
        given, recorded = read_step(entry)
        before = states.get(entry.experiment)
        try:
            anew = decide(before, upcast_input(logic, given, recorded, before), logic)
        except (IllegalInput, ValueError, KeyError) as error:
            yield ReplayStep(entry, False, f"its input cannot be handled ({type(error).__name__})", who, what)
            return
        problem = "" if _compared(anew) == _compared(recorded) else "the decisions do not follow from the input"
        problem = problem or explain_entry_time(entry, given)
        check: AggregateCheck | None = None
        after = before
        for decision in recorded:
            after = evolve(after, decision)
            for effect in effects(after, decision):
                if isinstance(effect, Aggregate):
                    waiting[entry.experiment] = effect
            problem = problem or _origin_problem(decision, after, states, blobs)
            if isinstance(decision, d.RoundCompleted):
                made = waiting.pop(entry.experiment, None)
                check = replace(
                    _check_aggregate(made, decision, blobs, final.get(entry.experiment)),
                    contributors={one.site: one.cases for one in made.updates} if made is not None else {},
                    model_digest=decision.digest,
                )
        if check is not None and not check.agrees:
            problem = problem or check.problem
        if after is not None:
            states[entry.experiment] = after
        yield ReplayStep(entry, not problem, problem, who, what, check)


def _origin_problem(
    decision: d.AnyDecision, after: ExperimentState | None, states: Mapping[str, ExperimentState], blobs: Blobs | None
) -> str:
    """What is wrong with the model that an experiment begins with: the experiment that it is said to be of made another
    one, or the blob is not it. Only what is at hand is looked at."""
    origin = None if after is None else after.origin
    if after is None or origin is None:
        return ""
    before = states.get(origin.experiment or "")
    if isinstance(decision, d.Accepted) and before is not None:
        made = models_after(before, origin.rounds or 0)
        if origin.digest not in {one.digest for one in made}:
            return f"in {origin.rounds} rounds {origin.experiment} made another model than this begins with"
    if isinstance(decision, d.InitialModel) and blobs is not None and blobs.has_blob(after.id, decision.seal):
        buffer = blobs.open_blob(after.id, decision.seal, decision.manifest)
        if model_digest(decision.manifest, buffer) != origin.digest:
            return "the stored initial model is not the one that the experiment begins with"
    return ""


def _final_states(entries: Iterable[Entry]) -> dict[str, ExperimentState]:
    states: dict[str, ExperimentState] = {}
    for entry in entries:
        if entry.type != STEP:
            continue
        try:
            for decision in read_step(entry)[1]:
                state = evolve(states.get(entry.experiment), decision)
                if state is not None:
                    states[entry.experiment] = state
        except (LogBroken, ValueError, KeyError):
            break  # the pass that verifies names the entry
    return states


def _compared(decided: Iterable[d.AnyDecision]) -> list[bytes]:
    return [one.compared_bytes() for one in decided]


def _check_aggregate(
    made: Aggregate | None, completed: d.RoundCompleted, blobs: Blobs | None, final: ExperimentState | None
) -> AggregateCheck:
    number = completed.number
    if made is None or made.round != number:
        return AggregateCheck(number, Status.MISSING, False, f"the log names no updates for round {number}")
    if blobs is None:
        return AggregateCheck(number, Status.DIGEST_ONLY, True)
    kept = {(one.round, one.site) for one in final.kept} if final is not None else set()
    gone = [one.site for one in made.updates if not blobs.has_blob(made.experiment, one.seal)]
    if gone:
        due = [site for site in gone if (number, site) in kept]
        if not due:
            return AggregateCheck(number, Status.DIGEST_ONLY, True)
        problem = f"the update of {', '.join(due)} for round {number} should be kept and is not there"
        return AggregateCheck(number, Status.MISSING, False, problem)
    if not all(blobs.has_blob(made.experiment, seal) for seal in made.models):
        if not any(one == number for one, _site in kept):
            return AggregateCheck(number, Status.DIGEST_ONLY, True)
        problem = f"the model that round {number} began with should be kept and is not there"
        return AggregateCheck(number, Status.MISSING, False, problem)
    changed = [
        one.site for one in made.updates if not blobs.is_intact(made.experiment, one.seal, made.manifest_of(one))
    ]
    if changed:
        problem = f"the stored update of {', '.join(changed)} for round {number} was changed"
        return AggregateCheck(number, Status.MISSING, False, problem)
    if not all(blobs.is_intact(made.experiment, seal, made.manifest) for seal in made.models):
        problem = f"the stored model that round {number} began with was changed"
        return AggregateCheck(number, Status.MISSING, False, problem)
    if problem := _memory_problem(blobs, made):
        return AggregateCheck(number, Status.MISSING, False, problem)
    if made.apart:
        return _check_apart(blobs, made, completed)
    digest, wire, memory = _make_again(blobs, made)
    what = "model" if (digest, wire) != (completed.digest, completed.wire) else f"memory of {made.strategy.name}"
    same = (digest, wire, memory) == (completed.digest, completed.wire, completed.memory)
    problem = "" if same else f"the updates of round {number} do not make the {what} that the log names"
    return AggregateCheck(number, Status.RECOMPUTED, same, problem)


def _check_apart(blobs: Blobs, made: Aggregate, completed: d.RoundCompleted) -> AggregateCheck:
    """Of a round that made a model for each site; that its updates are here and unchanged is known."""
    number = completed.number
    begun = sorted({one.master for one in made.apart if one.master is not None})
    if lost := [seal for seal in begun if not blobs.is_intact(made.experiment, seal, made.manifest)]:
        problem = f"a model that round {number} began with is not there, or was changed: {lost[0][:12]}"
        return AggregateCheck(number, Status.MISSING, False, problem)
    wrong = [
        site
        for one in made.apart
        for site in (one.updates[0].site,)
        if site not in completed.own
        or _make_again(blobs, one)[:2] != (completed.own[site].digest, completed.own[site].wire)
    ]
    if not wrong and name_models(completed.own) != completed.digest:
        return AggregateCheck(number, Status.RECOMPUTED, False, f"round {number} names its models by another digest")
    problem = f"the update of {', '.join(wrong)} of round {number} does not make the model that the log names"
    return AggregateCheck(number, Status.RECOMPUTED, not wrong, problem if wrong else "")


def _memory_problem(blobs: Blobs, made: Aggregate) -> str:
    """Why what the strategy kept from the rounds before cannot be used; it is kept as long as the round's updates."""
    manifest = memory_manifest(made)
    if made.memory is None or manifest is None or blobs.is_intact(made.experiment, made.memory, manifest):
        return ""
    what = "was changed" if blobs.has_blob(made.experiment, made.memory) else "should be kept and is not there"
    return f"what {made.strategy.name} kept from before round {made.round} {what}"


def _make_again(blobs: Blobs, made: Aggregate) -> tuple[str, str | None, str | None]:
    """The digest of what the updates make; the seals of the copy that the next round sends, and of what is kept."""
    sent = None if made.wire is None else made.manifest.in_codec(made.wire)
    remembered = memory_manifest(made)
    with tempfile.TemporaryDirectory(prefix="konsil-replay-") as folder, ExitStack() as files:
        out = files.enter_context(create_mapped(Path(folder, "aggregate"), made.manifest.nbytes))
        wire = None if sent is None else files.enter_context(create_mapped(Path(folder, "wire"), sent.nbytes))
        memory = (
            None if remembered is None else files.enter_context(create_mapped(Path(folder, "m"), remembered.nbytes))
        )
        average(blobs, made, out, wire, memory, files.enter_context(open_updates(blobs, made)))
        return model_digest(made.manifest, out), _seal(sent, wire), _seal(remembered, memory)


def _seal(manifest: Manifest | None, buffer: Buffer | None) -> str | None:
    if manifest is None or buffer is None:
        return None
    return layout.seal_transfer(manifest, layout.chunk_digests(manifest, buffer))
