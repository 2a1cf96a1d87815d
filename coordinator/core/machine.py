"""The experiment's state machine: a table of (phase, kind of input) → handler or named refusal.

A decider: `decide(state, input) -> decisions`, `evolve(state, decision) -> state` (`coordinator.core.evolve`),
`effects(state, decision) -> effects` (`coordinator.core.effects`). All pure: no clock, I/O or randomness. The table is
total over all history kinds that can come over the wire; a missing pair among the coordinator's own inputs raises.
docs/machines.md draws it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from coordinator.core import decisions as d
from coordinator.core import rules
from coordinator.core.evolve import evolve, fold_decisions
from coordinator.core.handlers import events as h
from coordinator.core.handlers import reports as own
from coordinator.core.handlers.answers import Handler
from coordinator.core.inputs import AnyInput, HandlingFailed, Received, kind_of
from coordinator.core.logic import LOGIC, explain_unknown
from coordinator.core.state import ENDED, ExperimentState, Member, Part, Phase
from coordinator.core.steps.base import Answer, StepRow
from coordinator.core.steps.table import STEPS
from messages.kinds import KINDS
from messages.names import UPLINK
from messages.reasons import Reason

Rule = Handler | Reason
"""What a pair of (phase, kind) leads to: a handler, or a refusal by its reason."""
Table = Mapping[tuple[Phase, str], Rule]

WIRE = tuple(kind for kind, spec in KINDS.items() if spec.queue == UPLINK and spec.history)
"""History kinds that a coordinator can receive."""

_P = Phase
_EVERY: dict[str, Rule] = {
    "experiment-start": h.start_again,
    "experiment-abort": h.take_abort,
    "experiment-pause": h.take_pause,
    "experiment-resume": Reason.WRONG_STATE,
    "experiment-finish": h.take_finish,
    "experiment-exclude": h.take_exclude,
    "joined": h.take_joined,
    "declined": h.take_declined,
    "leaving": h.take_leaving,
    "head-witnessed": Reason.WRONG_STATE,
    "secure-complaint": h.refuse_late,
    "round-accepted": h.refuse_late,
    "round-failed": h.refuse_late,
    "outage": own.take_outage,
    "disk-full": own.disk_full,
    "disk-free": own.disk_free,
    "timer-fired": own.timer_fired,
    "handling-failed": own.handling_failed,
    "barred": h.take_barred,
}
# What workers report late: an update of a closed round, a timer that was due when something else came first.
_STALE: dict[str, Rule] = {
    "update-stored": own.ignore_report,
    "update-bad": own.ignore_report,
    "initialised": own.ignore_report,
    "initialisation-failed": own.ignore_report,
    "aggregation-failed": own.ignore_report,
    "sum-refused": own.ignore_report,
}
_IN_A_ROUND: dict[str, Rule] = (
    _EVERY
    | _STALE
    | {
        "round-accepted": h.round_accepted,
        "round-failed": h.round_failed,
        "update-stored": own.update_stored,
        "update-bad": own.update_bad,
    }
)
"""While its updates come, and while a model is made of them: some plans take more of them then."""
_OVER: dict[str, Rule] = {
    "experiment-start": h.start_again,
    "leaving": h.take_leaving,
    "round-accepted": Reason.LATE,
    "round-failed": Reason.LATE,
    "initialised": own.ignore_report,
    "initialisation-failed": own.ignore_report,
    "update-stored": own.ignore_report,
    "update-bad": own.ignore_report,
    "aggregated": own.ignore_report,
    "aggregation-failed": own.ignore_report,
    "sum-refused": own.ignore_report,
    "timer-fired": own.ignore_report,
    "handling-failed": own.ignore_report,
    "disk-full": own.ignore_report,
    "disk-free": own.ignore_report,
    "barred": own.ignore_report,
}
_BY_PHASE: dict[Phase, dict[str, Rule]] = {
    _P.RECRUITING: _EVERY,
    _P.INITIALISING: _EVERY | {"initialised": own.take_initialised, "initialisation-failed": own.initialisation_failed},
    _P.RUNNING: _IN_A_ROUND | {"aggregated": own.ignore_report, "secure-complaint": h.take_complaint},
    _P.AGGREGATING: _IN_A_ROUND
    | {
        "aggregated": own.take_aggregated,
        "aggregation-failed": own.aggregation_failed,
        "sum-refused": own.take_sum_refused,
    },
    _P.EVALUATING: _EVERY
    | _STALE
    | {
        "joined": Reason.WRONG_STATE,
        "round-accepted": h.round_accepted,
        "round-failed": h.round_failed,
        "aggregated": own.ignore_report,
        "secure-complaint": h.take_complaint,
    },
    _P.COMPLETE: _OVER,
    _P.FAILED: _OVER,
    _P.ABORTED: _OVER,
}
PAUSED: Mapping[str, Rule] = MappingProxyType(
    {"experiment-pause": h.pause_for_good, "experiment-resume": h.take_resume, "outage": own.ignore_report}
)
"""What a pause changes; everything else means what it meant in the phase that the pause came from."""


def build_table(steps: Iterable[StepRow], wire: Iterable[str]) -> Table:
    """The whole table: what is written above, and the answers that steps ask for.

    Args:
        steps: the answer of each has its handler in the step's phase; elsewhere it is late.
        wire: kinds that can come over the wire; of an unknown or ended experiment each is refused.
    """
    rows, kinds = list(steps), tuple(wire)
    table: dict[tuple[Phase, str], Rule] = {(_P.NONE, kind): Reason.UNKNOWN_EXPERIMENT for kind in kinds}
    for phase, row in _BY_PHASE.items():
        over = phase in ENDED
        refused: dict[str, Rule] = dict.fromkeys(kinds, Reason.WRONG_STATE) if over else {}
        answers: dict[str, Rule] = dict.fromkeys((one.answers for one in rows), Reason.LATE if over else h.refuse_late)
        if not over:
            # Updates come in while a model is made, too, where the plan lets work go on from round to round.
            taken = [one for one in rows if one.phase is phase or (one.takes_updates and phase is _P.AGGREGATING)]
            for kind in dict.fromkeys(one.answers for one in taken):
                answers[kind] = h.take_answer(*(one for one in taken if one.answers == kind))
        table |= {(phase, kind): rule for kind, rule in (refused | answers | row).items()}
    return MappingProxyType(table)


TABLE = build_table(STEPS.values(), WIRE)


class IllegalInput(LookupError):
    """An own input came in a phase in which it cannot: a mistake of ours, never a sender's."""


def decide(state: ExperimentState | None, given: AnyInput, logic: int = LOGIC) -> tuple[d.AnyDecision, ...]:
    """What to do about an input; never raises for what came over the wire.

    Args:
        state: None where the experiment is not known.
        logic: the number under which it is decided: for replay, that of the entry.

    Raises:
        IllegalInput: an own input in a phase in which it cannot come.
        ValueError: this version does not know the logic number.
    """
    if (unknown := explain_unknown(logic)) is not None:
        raise ValueError(unknown)
    state = _under_logic(logic, state)
    decided = _decide_answer(state, given)
    if state is not None and state.logic >= 3 and isinstance(given, Received | HandlingFailed):
        decided = _leave_out_idle(state, decided)
    after = _under_logic(logic, fold_decisions(state, decided))
    while after is not None and (more := rules.advance_state(after, given.time)):
        decided += more
        after = fold_decisions(after, more)
    return decided


_OF_A_SITE = (
    d.SiteJoined,
    d.SiteDeclined,
    d.SiteAway,
    d.SiteBack,
    d.SiteAccepted,
    d.SiteFailed,
    d.SiteEvaluated,
    d.StepAnswered,
)
"""What is recorded of a site alone, and asks for no effect."""


def _leave_out_idle(state: ExperimentState, decided: tuple[d.AnyDecision, ...]) -> tuple[d.AnyDecision, ...]:
    """Without what is on record already: a site may say the same thing as often as it likes."""
    made: list[d.AnyDecision] = []
    for one in decided:
        after = evolve(state, one) or state
        if not isinstance(one, _OF_A_SITE) or _record_of(after, one.site) != _record_of(state, one.site):
            made.append(one)
        state = after
    return tuple(made)


def _record_of(state: ExperimentState, site: str) -> tuple[Member | None, Part | None]:
    return state.members.get(site), state.round.parts.get(site) if state.round is not None else None


def _under_logic(logic: int, state: ExperimentState | None) -> ExperimentState | None:
    return state if state is None or state.logic == logic else replace(state, logic=logic)


def _decide_answer(state: ExperimentState | None, given: AnyInput) -> tuple[d.AnyDecision, ...]:
    if not isinstance(given, Received):
        if state is None:
            raise IllegalInput(f"{kind_of(given)} without an experiment")
        said = _answer_kind(state, kind_of(given), given)
        return said if isinstance(said, tuple) else ()
    event = given.event
    kind = event.kind
    by_site = "site" in KINDS[kind].senders
    answer: Answer
    if state is None:
        answer = first(given) if (first := _FIRST.get(kind)) is not None else _refuse_unknown(kind)
    elif not given.known:
        answer = Reason.UNKNOWN_SITE if by_site else Reason.RESEARCHER_NOT_ALLOWED
    else:
        answer = _answer_kind(state, kind, given)
    if isinstance(answer, Reason):
        answer = (d.Refused(event=event.id, kind=kind, sender=event.sender, reason=answer, round=event.round),)
    elif by_site and state is not None and state.phase not in ENDED:
        answer = _note_heard(state, event.sender, kind) + answer
    # A weights-ready that was taken gets its receipt when the update itself is here.
    if any(isinstance(one, d.UpdateAnnounced) for one in answer):
        return answer
    return (*answer, d.Settled(event=event.id, sender=event.sender))


_FIRST: Mapping[str, Callable[[Received], Answer]] = MappingProxyType(
    {"experiment-start": h.first_start, "head-witnessed": h.take_witnessed}
)
"""What is no matter of an experiment that is known."""


def _note_heard(state: ExperimentState, site: str, kind: str) -> tuple[d.AnyDecision, ...]:
    member = state.members.get(site)
    if member is None or not member.away or kind == "leaving":
        return ()
    return (d.SiteBack(site=site),)


def _answer_kind(state: ExperimentState, kind: str, given: AnyInput) -> Answer:
    rule = rule_of(state, kind)
    return rule if isinstance(rule, Reason) else rule(state, given)


def _refuse_unknown(kind: str) -> Reason:
    rule = TABLE[(Phase.NONE, kind)]
    assert isinstance(rule, Reason)  # noqa: S101  (for mypy: the row of NONE holds refusals only)
    return rule


def rule_of(state: ExperimentState, kind: str) -> Rule:
    """What the table says of a kind of input now; IllegalInput where it says nothing."""
    phase = state.phase
    if phase is Phase.PAUSED:
        if kind in PAUSED:
            return PAUSED[kind]
        phase = state.stage
    try:
        return TABLE[(phase, kind)]
    except KeyError:
        raise IllegalInput(f"{kind} while {state.phase}") from None
