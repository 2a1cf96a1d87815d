"""The experiment's state machine: a table of (phase, kind of input) → handler or named refusal.

A decider: `decide(state, input) -> decisions`, `evolve(state, decision) -> state` (`coordinator.core.evolve`),
`effects(state, decision) -> effects` (`coordinator.core.effects`). All pure: no clock, I/O or randomness. The table is
total over all history kinds that can come over the wire; a missing pair among the coordinator's own inputs raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import handlers as h
from coordinator.core import rules
from coordinator.core.evolve import fold
from coordinator.core.inputs import AnyInput, Received, kind_of
from coordinator.core.logic import LOGIC, explain_unknown
from coordinator.core.state import ENDED, ExperimentState, Phase
from messages.kinds import KINDS
from messages.names import UPLINK
from messages.reasons import Reason

WIRE = tuple(kind for kind, spec in KINDS.items() if spec.queue == UPLINK and spec.history)
"""History kinds that a coordinator can receive."""

_P = Phase
_EVERY = {
    "experiment-start": h.start_again,
    "experiment-abort": h.abort,
    "experiment-pause": h.pause,
    "experiment-resume": Reason.WRONG_STATE,
    "joined": h.joined,
    "declined": h.declined,
    "leaving": h.leaving,
    "round-accepted": h.late,
    "weights-ready": h.late,
    "round-failed": h.late,
    "evaluated": h.late,
    "outage": h.outage,
    "disk-full": h.disk_full,
    "disk-free": h.disk_free,
    "timer-fired": h.timer_fired,
}
# What workers report late: an update of a closed round, a timer that was due when something else came first.
_STALE = {
    "update-stored": h.ignore,
    "update-bad": h.ignore,
    "initialised": h.ignore,
    "initialisation-failed": h.ignore,
    "aggregation-failed": h.ignore,
}
_OVER = dict.fromkeys(WIRE, Reason.WRONG_STATE) | {
    "experiment-start": h.start_again,
    "leaving": h.leaving,
    "weights-ready": Reason.LATE,
    "round-accepted": Reason.LATE,
    "round-failed": Reason.LATE,
    "evaluated": Reason.LATE,
    "initialised": h.ignore,
    "initialisation-failed": h.ignore,
    "update-stored": h.ignore,
    "update-bad": h.ignore,
    "aggregated": h.ignore,
    "aggregation-failed": h.ignore,
    "timer-fired": h.ignore,
    "disk-full": h.ignore,
    "disk-free": h.ignore,
}
_BY_PHASE: dict[Phase, dict[str, Any]] = {
    _P.NONE: dict.fromkeys(WIRE, Reason.UNKNOWN_EXPERIMENT) | {"experiment-start": h.first_start},
    _P.RECRUITING: _EVERY,
    _P.INITIALISING: _EVERY | {"initialised": h.initialised, "initialisation-failed": h.initialisation_failed},
    _P.RUNNING: _EVERY
    | _STALE
    | {
        "round-accepted": h.round_accepted,
        "weights-ready": h.weights_ready,
        "round-failed": h.round_failed,
        "update-stored": h.update_stored,
        "update-bad": h.update_bad,
        "aggregated": h.ignore,
    },
    _P.AGGREGATING: _EVERY | _STALE | {"aggregated": h.aggregated, "aggregation-failed": h.aggregation_failed},
    _P.EVALUATING: _EVERY
    | _STALE
    | {
        "joined": Reason.WRONG_STATE,
        "round-accepted": h.round_accepted,
        "round-failed": h.round_failed,
        "evaluated": h.evaluated,
        "aggregated": h.ignore,
    },
    _P.COMPLETE: _OVER,
    _P.FAILED: _OVER,
    _P.ABORTED: _OVER,
}
PAUSED = {"experiment-pause": Reason.WRONG_STATE, "experiment-resume": h.resume, "outage": h.ignore}
"""What a pause changes; everything else means what it meant in the phase that the pause came from."""

TABLE: Mapping[tuple[Phase, str], Any] = MappingProxyType(
    {(phase, kind): rule for phase, row in _BY_PHASE.items() for kind, rule in row.items()}
)

_SITE_KINDS = frozenset(kind for kind in WIRE if "site" in KINDS[kind].senders)


class UnknownPair(LookupError):
    """An own input came in a phase in which it cannot: a mistake of ours, never a sender's."""


def decide(state: ExperimentState | None, given: AnyInput, logic: int = LOGIC) -> tuple[d.AnyDecision, ...]:
    """What to do about an input; never raises for what came over the wire.

    Args:
        state: None where the experiment is not known.
        logic: the number under which it is decided: for replay, that of the entry.

    Raises:
        UnknownPair: an own input in a phase in which it cannot come.
        ValueError: this version does not know the logic number.
    """
    if (unknown := explain_unknown(logic)) is not None:
        raise ValueError(unknown)
    state = _under(logic, state)
    decided = _answered(state, given)
    after = _under(logic, fold(state, decided))
    while after is not None and (more := rules.advance(after, given.time)):
        decided += more
        after = fold(after, more)
    return decided


def _under(logic: int, state: ExperimentState | None) -> ExperimentState | None:
    return state if state is None or state.logic == logic else replace(state, logic=logic)


def _answered(state: ExperimentState | None, given: AnyInput) -> tuple[d.AnyDecision, ...]:
    if not isinstance(given, Received):
        if state is None:
            raise UnknownPair(f"{kind_of(given)} without an experiment")
        own: h.Answer = _rule(state, kind_of(given))(state, given)
        return own if isinstance(own, tuple) else ()
    event = given.event
    kind = event.kind
    answer: h.Answer
    if state is None:
        rule = TABLE[(Phase.NONE, kind)]
        answer = rule(given) if callable(rule) else rule
    elif not given.known:
        answer = Reason.UNKNOWN_SITE if kind in _SITE_KINDS else Reason.RESEARCHER_NOT_ALLOWED
    else:
        rule = _rule(state, kind)
        answer = rule(state, given) if callable(rule) else rule
    if isinstance(answer, Reason):
        answer = (d.Refused(event=event.id, kind=kind, sender=event.sender, reason=answer, round=event.round),)
    elif kind in _SITE_KINDS and state is not None and state.phase not in ENDED:
        answer = _heard(state, event.sender, kind) + answer
    # A weights-ready that was taken gets its receipt when the update itself is here.
    if any(isinstance(one, d.UpdateAnnounced) for one in answer):
        return answer
    return (*answer, d.Settled(event=event.id, sender=event.sender))


def _heard(state: ExperimentState, site: str, kind: str) -> tuple[d.AnyDecision, ...]:
    member = state.members.get(site)
    if member is None or not member.away or kind == "leaving":
        return ()
    return (d.SiteBack(site=site),)


def _rule(state: ExperimentState, kind: str) -> Any:
    phase = state.phase
    if phase is Phase.PAUSED:
        if kind in PAUSED:
            return PAUSED[kind]
        phase = state.stage
    try:
        return TABLE[(phase, kind)]
    except KeyError:
        raise UnknownPair(f"{kind} while {state.phase}") from None
