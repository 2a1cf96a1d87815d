"""The site's state machine: pure, by a table of (phase, what happened), with one queue for the training slot.

A decider as the coordinator's: `decide(agenda, input) -> decisions`, `evolve(agenda, decision) -> agenda`
(`site_agent.core.evolve`), `effects(before, after, decision) -> effects` (`site_agent.core.effects`). No I/O, clock or
randomness. docs/machines.md draws the table.

The table is total: what the coordinator may say and the phase has no use for is refused with a name; what our own
parts may say late (a trainer's last words after its round was dropped) is refused as late; anything else of our own
raises `IllegalInput`, since it is a defect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from messages.ground.fairness import choose_turn, order_turns
from messages.kinds import KINDS
from messages.names import COORDINATOR
from messages.reasons import Reason
from site_agent.core import handlers as h
from site_agent.core import heard
from site_agent.core.answers import Decisions, Handler
from site_agent.core.decisions import Begin, Ignore
from site_agent.core.evolve import fold_decisions
from site_agent.core.inputs import (
    AnyInput,
    Approved,
    CasesMeasured,
    ChunksSent,
    Distrusted,
    Heard,
    ModelReady,
    NoSpace,
    PartBroken,
    Prepared,
    Receipted,
    Restarted,
    Retried,
    Scored,
    SecureAnswered,
    SecureRefused,
    Switched,
    TrainerDied,
    TrainerFailed,
    TurnedDown,
    UpdateLost,
    UpdateMasked,
)
from site_agent.core.jobs import AT_WORK, NEEDS_SLOT, Agenda, Phase, Trained
from site_agent.core.secure import heard as secure
from site_agent.core.secure.state import TrainedInside
from site_agent.core.steps import STEPS

OWN: tuple[type, ...] = (
    Approved, TurnedDown, Prepared, ModelReady, NoSpace, Trained, Scored, CasesMeasured, TrainerFailed, TrainerDied,
    PartBroken, ChunksSent, UpdateLost, Receipted, Retried, Distrusted, TrainedInside, SecureAnswered, SecureRefused,
    UpdateMasked,
)  # fmt: skip
"""Our own inputs about one experiment."""

HEARD = tuple(kind for kind, spec in KINDS.items() if spec.body is not None and COORDINATOR in spec.senders)
"""Every kind of event that the coordinator may send."""


Rule = Handler | Reason
"""What a pair of (phase, kind of event or name of own input) leads to: a handler, or why it changes nothing."""
Table = Mapping[tuple[Phase, str], Rule]


class IllegalInput(AssertionError):
    """One of our own parts said what cannot be in this phase: a defect, never a reaction to the wire."""


def decide(agenda: Agenda, given: AnyInput) -> Decisions:
    """What to do about an input, and who gets the training slot then.

    Raises:
        IllegalInput: an own input in a phase in which it cannot come.
    """
    decided = _decide_answer(agenda, given)
    after = fold_decisions(agenda, decided)
    while more := _next_for_slot(after):
        decided += more
        after = fold_decisions(after, more)
    return decided


def _decide_answer(agenda: Agenda, given: AnyInput) -> Decisions:
    if isinstance(given, Switched):
        return h.take_switched(agenda, given)
    if isinstance(given, Restarted):
        return h.take_restarted(agenda, given)
    if isinstance(given, Heard):
        experiment, name = given.event.experiment, given.event.kind
    else:
        experiment, name = given.experiment, type(given).__name__
    job = agenda.job_of(experiment)
    if job is None:
        if isinstance(given, Heard) and name == "experiment-accepted":
            return heard.hear_accepted(agenda, given)
        return (Ignore(experiment, Reason.UNKNOWN_EXPERIMENT),)
    rule = TABLE.get((job.phase, name))
    if rule is None:
        raise IllegalInput(f"{name} in phase {job.phase}")
    return (Ignore(experiment, rule),) if isinstance(rule, Reason) else rule(agenda, job, given)


def _next_for_slot(agenda: Agenda) -> Decisions:
    """Who gets the free slot: whose turn it is among those that may begin now."""
    if agenda.running is not None or not agenda.open:
        return ()
    halted = agenda.paused or agenda.draining  # what was accepted goes on
    waiting = [one for one in agenda.queue if not (halted and agenda.jobs[one].phase is Phase.PREPARING)]
    if not waiting:
        return ()
    return (Begin(waiting[choose_turn(_owners_of(agenda, waiting), agenda.served)]),)


def _owners_of(agenda: Agenda, waiting: Sequence[str]) -> list[str]:
    """Turns go round by researcher: else one with many experiments would hold up another's only one."""
    return [agenda.jobs[one].researcher for one in waiting]


def list_waiting(agenda: Agenda) -> list[str]:
    """Who waits for the slot, in the order in which they will get it if nobody else comes."""
    return [agenda.queue[place] for place in order_turns(_owners_of(agenda, agenda.queue), agenda.served)]


def waits_for_hours(agenda: Agenda) -> bool:
    """Whether nothing but the operator's hours keeps the site from work: some is queued, or was refused for them."""
    if agenda.open or agenda.running is not None:
        return False
    refused = any(job.reason is Reason.OUTSIDE_HOURS for job in agenda.jobs.values() if job.phase is not Phase.ENDED)
    return (refused and not agenda.paused) or bool(_next_for_slot(replace(agenda, open=True)))


_STANDING = tuple(phase for phase in Phase if phase is not Phase.UNKNOWN)
_MASKED = (Phase.IDLE, *AT_WORK, Phase.REPORTED)
"""Where a part in a secure round may stand: consents and reveals come once the update is delivered."""


def build_table(steps: Iterable[str], kinds: Iterable[str]) -> Table:
    """The whole table.

    Args:
        steps: kinds of event that open a step.
        kinds: of event that the coordinator may send.
    """
    table: dict[tuple[Phase, str], Rule] = {}

    def row(phases: tuple[Phase, ...], what: str | type, rule: Rule) -> None:
        for phase in phases:
            table[phase, what if isinstance(what, str) else what.__name__] = rule

    for kind in kinds:
        row(_STANDING, kind, Reason.WRONG_STATE)
    for own in OWN:
        row(_STANDING, own, Reason.LATE)
    row(_STANDING, "experiment-accepted", heard.accepted_again)
    for kind in steps:
        row((Phase.IDLE, *AT_WORK), kind, heard.hear_opening)
        row((Phase.AWAITING, Phase.PREPARING), kind, heard.hold_opening)
    row((Phase.REPORTED,), "evaluation-start", heard.hear_opening)  # of an ensemble, whose parts were scored first
    for kind in ("round-complete", "round-void"):
        row((Phase.FETCHING, Phase.TRAINING, Phase.MASKING, Phase.SENDING), kind, heard.hear_completed)
        row((Phase.AWAITING, Phase.PREPARING), kind, heard.forget_held)
        row((Phase.IDLE, Phase.REPORTED), kind, secure.hear_over)
    for kind in secure.STEPS:
        row(_MASKED, kind, secure.hear_step)
    row(_MASKED, "secure-mail", secure.hear_mail)
    living = tuple(phase for phase in _STANDING if phase is not Phase.ENDED)
    for kind in ("experiment-complete", "experiment-failed", "experiment-aborted"):
        row(living, kind, heard.hear_ended)
    row(living, "site-excluded", heard.hear_excluded)
    row(living, "statistics-pooled", heard.hear_configured)
    for kind in ("experiment-paused", "experiment-resumed"):
        row(living, kind, heard.hear_suspended)
    row((Phase.SENDING,), "chunks-wanted", heard.chunks_wanted)

    row((Phase.AWAITING,), Approved, h.take_approved)
    row((Phase.AWAITING,), TurnedDown, h.take_turned_down)
    row((Phase.PREPARING,), Prepared, h.take_prepared)
    row((Phase.IDLE, Phase.FETCHING, Phase.MEASURING, Phase.TRAINING, Phase.EVALUATING), Prepared, h.prepared_again)
    row(_MASKED, SecureAnswered, secure.take_answered)
    row(_MASKED, SecureRefused, secure.take_refused)
    row((Phase.TRAINING,), TrainedInside, secure.take_trained)
    row((Phase.MASKING,), UpdateMasked, secure.take_masked)
    row((Phase.FETCHING, Phase.EVALUATING), ModelReady, h.model_ready)
    row((Phase.FETCHING, Phase.TRAINING, Phase.MASKING, Phase.EVALUATING), NoSpace, h.no_space)
    row((Phase.TRAINING,), Trained, h.take_trained)
    row((Phase.EVALUATING,), Scored, h.take_scored)
    row((Phase.MEASURING,), CasesMeasured, h.take_measured)
    row(NEEDS_SLOT, TrainerFailed, h.take_failed)
    row(NEEDS_SLOT, TrainerDied, h.take_died)
    row((Phase.PREPARING, Phase.IDLE, *AT_WORK, Phase.REPORTED), PartBroken, h.take_broken)
    row(living, Distrusted, h.take_distrusted)
    row((Phase.IDLE, Phase.REPORTED), Retried, h.take_retried)
    row((Phase.SENDING,), ChunksSent, h.chunks_sent)
    row((Phase.SENDING,), UpdateLost, h.update_lost)
    row((Phase.SENDING,), Receipted, h.take_receipted)
    # A trainer that was never asked cannot have said anything: what says so is broken.
    for own in (
        Trained, TrainedInside, Scored, CasesMeasured, SecureAnswered, SecureRefused, UpdateMasked, ChunksSent,
        UpdateLost, Receipted,
    ):  # fmt: skip
        del table[Phase.AWAITING, own.__name__]
    return MappingProxyType(table)


TABLE = build_table(STEPS, HEARD)
"""Own pairs that are absent are illegal."""


def restore_agenda(agenda: Agenda) -> Agenda:
    """The agenda as it comes out of the spool: nobody waits and nobody runs until `Restarted` is handled."""
    return replace(agenda, queue=(), running=None)
