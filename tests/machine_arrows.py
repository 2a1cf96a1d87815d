"""The arrows of both state machines, found by trying: each phase is entered, and each kind of input given to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import agenda_kit as site
from coordinator_kit import MANIFEST, SITES
from machine_run import BODIES, SEAL, Run, in_phase, measuring

from coordinator.core import inputs as i
from coordinator.core import machine
from coordinator.core.evolve import fold_decisions
from coordinator.core.state import ENDED, Phase, Timer
from messages.reasons import Reason
from site_agent.core import agenda as agenda_table
from site_agent.core import inputs as s
from site_agent.core.jobs import OVER, Agenda

Arrow = tuple[str, str, str]
"""From, to, and the kind of input."""


def coordinator_arrows() -> list[Arrow]:
    """Where an experiment goes from each phase, in the table's order of phases."""
    found: dict[Arrow, None] = {}
    for phase in Phase:
        if phase is Phase.NONE:
            found[(Phase.NONE.value, Phase.RECRUITING.value, "experiment-start")] = None
            continue
        for run in _ways_on(phase):
            found |= dict.fromkeys(_changes(run))
    for plan in ({}, {"plan": {"kind": "statistics"}, "rounds": {"count": 0}}):
        run = measuring(**plan)
        for sender in SITES:
            run.wire(BODIES["statistics-ready"], sender)
        found |= dict.fromkeys(_changes(run))
    return sorted(found, key=lambda one: (_rank(one[0]), _rank(one[1]), one[2]))


def _rank(phase: str) -> int:
    return [one.value for one in Phase].index(phase)


def _ways_on(phase: Phase) -> Iterator[Run]:
    """The phase, and then each input that can come in it."""
    yield in_phase(phase)
    for kind in machine.WIRE:
        if kind != "experiment-start":
            run = in_phase(phase)
            for sender in ["dr-a"] if kind.startswith("experiment") else SITES:
                run.wire(BODIES[kind], sender, number=1)
            yield run
    for given in _own_inputs():
        run = in_phase(phase)
        try:
            run.put(given.model_copy(update={"time": run.time}))
        except machine.IllegalInput:
            continue
        yield run
        if isinstance(given, i.DiskFull):
            run.put(i.DiskFree(time=run.time + 1))
    if phase not in ENDED:
        run = in_phase(phase)
        for _ in range(4):
            for timer in list(run.state.timers if run.state is not None else ()):
                run.fire(timer)
        yield run
        run = in_phase(phase)
        if phase is not Phase.PAUSED:
            run.wire(BODIES["experiment-pause"])
        run.wire(BODIES["experiment-resume"])
        yield run


def _own_inputs() -> Iterator[Any]:
    yield i.Initialised(time=1, manifest=MANIFEST, seal=SEAL, digest="0" * 64)
    yield i.InitialisationFailed(time=1)
    for number in (1, 2):
        yield i.Aggregated(time=1, round=number, seal=SEAL, digest="0" * 64)
        yield i.AggregationFailed(time=1, round=number)
    yield from (i.HandlingFailed(time=1, kind=kind, round=1) for kind in ("initialised", "aggregated", "timer-fired"))
    yield i.DiskFull(time=1)
    yield from (i.TimerFired(time=1, timer=timer) for timer in Timer)


def _changes(run: Run) -> Iterator[Arrow]:
    """Inputs of a run after which the experiment is in another phase."""
    state = None
    for given, decided in run.steps:
        before = state.phase.value if state is not None else Phase.NONE.value
        state = fold_decisions(state, decided)
        after = state.phase.value if state is not None else Phase.NONE.value
        if before != after:
            yield before, after, i.kind_of(given)


def site_arrows() -> list[Arrow]:
    """Where a site's job goes from each phase."""
    found: dict[Arrow, None] = {}
    order = [phase.value for phase in site.Phase]
    for phase in site.Phase:
        way = site.WAYS.get(phase, [])
        for given in _site_inputs():
            for queue in ([given], [given, *_following(given)]):
                agenda = Agenda("site-a")
                for one in [*way, *queue]:
                    before = agenda.phase_of("e").value
                    try:
                        agenda = site.step(agenda, one)[0]
                    except agenda_table.IllegalInput:
                        break
                    after = agenda.phase_of("e").value
                    if before != after:
                        found[(before, after, _name_of(one))] = None
    return sorted(found, key=lambda one: (order.index(one[0]), order.index(one[1]), one[2]))


def _following(given: Any) -> Iterable[Any]:
    return (s.Scored("e", "selected", site.SCORES),) if isinstance(given, s.Scored) else ()


def _site_inputs() -> Iterator[Any]:
    yield site.accepted()
    yield site.accepted(verdict=site.PolicyVerdict(by_hand=True))
    yield site.accepted(verdict=site.PolicyVerdict(Reason.NOT_ALLOWED))
    yield s.Approved("e")
    yield s.TurnedDown("e")
    yield site.PREPARED
    yield replace(site.PREPARED, lack=Reason.TOO_FEW_CASES)
    yield site.round_start(1)
    yield site.round_start(2)
    yield site.evaluation_start()
    yield site.statistics_start()
    yield site.statistics_pooled()
    yield s.CasesMeasured("e", site.STATISTICS)
    yield site.round_complete(1)
    yield site.model_ready(1)
    yield site.model_ready(2)
    yield site.trained(1)
    yield s.Scored("e", "final", site.SCORES)
    yield s.TrainerFailed("e", Reason.CUDA_OOM)
    yield s.TrainerDied("e")
    yield s.TrainerDied("e", stuck=True)
    yield s.NoSpace("e")
    yield s.PartBroken("e")
    yield s.Retried("e")
    yield s.Receipted("e", 1, 1)
    yield s.UpdateLost("e", 1, 1)
    yield from site.ENDINGS


def _name_of(given: Any) -> str:
    return given.event.kind if isinstance(given, s.Heard) else type(given).__name__


def draw_diagram(arrows: Iterable[Arrow], ends: Iterable[str]) -> list[str]:
    """Arrows as a mermaid state diagram; one arrow a pair of phases, its kinds below each other."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for before, after, kind in arrows:
        pairs.setdefault((before, after), []).append(kind)
    lines = ["```mermaid", "stateDiagram-v2"]
    for (before, after), kinds in pairs.items():
        start = "[*]" if before in ("none", "unknown") else _word(before)
        lines.append(f"  {start} --> {_word(after)}: {', '.join(kinds)}")
    lines += [f"  {_word(end)} --> [*]" for end in ends if any(end == after for _b, after in pairs)]
    return [*lines, "```", ""]


def _word(phase: str) -> str:
    return phase.replace("-", "_")


COORDINATOR_ENDS = sorted(phase.value for phase in ENDED)
SITE_ENDS = [phase.value for phase in OVER]
