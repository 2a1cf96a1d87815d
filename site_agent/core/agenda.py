"""The site's state machine: pure, by a table of (phase, what happened), with one queue for the training slot.

`decide` says what to do about a stimulus, `evolve` applies a decision, `effects` says what the shell has to do.
`step` runs the three, and hands the slot on. No I/O, clock or randomness.

The table is total: what the coordinator may say and the phase has no use for is refused with a name; what our own
parts may say late (a trainer's last words after its round was dropped) is listed as stale; anything else of our own
raises `IllegalStimulus`, since it is a defect.
"""

from __future__ import annotations

from dataclasses import replace

from messages.kinds import KINDS
from messages.names import COORDINATOR
from messages.reasons import Reason
from site_agent.core import handlers as h
from site_agent.core.decisions import Begin, Decision, Deliver, Ignore, Redo
from site_agent.core.effects import Effect, effects
from site_agent.core.evolve import evolve
from site_agent.core.handlers import Decisions, Handler
from site_agent.core.inputs import (
    Approved,
    ChunksSent,
    Heard,
    ModelReady,
    NoSpace,
    Prepared,
    Receipted,
    Restarted,
    Scored,
    Stimulus,
    Switched,
    TrainerDied,
    TrainerFailed,
    UpdateLost,
)
from site_agent.core.jobs import NEEDS_SLOT, Agenda, Phase, Trained

OWN: tuple[type, ...] = (
    Approved, Prepared, ModelReady, NoSpace, Trained, Scored, TrainerFailed, TrainerDied, ChunksSent, UpdateLost,
    Receipted,
)  # fmt: skip
"""Our own stimuli about one experiment."""

HEARD = tuple(kind for kind, spec in KINDS.items() if spec.body is not None and COORDINATOR in spec.senders)
"""Every kind of event that the coordinator may send."""


class IllegalStimulus(AssertionError):
    """One of our own parts said what cannot be in this phase: a defect, never a reaction to the wire."""


def step(agenda: Agenda, stimulus: Stimulus) -> tuple[Agenda, Decisions, tuple[Effect, ...]]:
    """Decide, apply, and hand the training slot on; returns the new agenda, what was decided, what to do."""
    taken: list[Decision] = []
    todo: list[Effect] = []
    decisions = decide(agenda, stimulus)
    while decisions:
        for decision in decisions:
            before, agenda = agenda, evolve(agenda, decision)
            taken.append(decision)
            todo += effects(before, agenda, decision)
        decisions = _next_for_slot(agenda)
    return agenda, tuple(taken), tuple(todo)


def decide(agenda: Agenda, stimulus: Stimulus) -> Decisions:
    """What to do about a stimulus."""
    if isinstance(stimulus, Switched):
        return h.switched(agenda, stimulus)
    if isinstance(stimulus, Restarted):
        return h.restarted(agenda, stimulus)
    if isinstance(stimulus, Heard):
        experiment, name = stimulus.event.experiment, stimulus.event.kind
    else:
        experiment, name = stimulus.experiment, type(stimulus).__name__
    job = agenda.job(experiment)
    if job is None:
        if isinstance(stimulus, Heard) and name == "experiment-accepted":
            return h.accepted(stimulus)
        return (Ignore(experiment, Reason.UNKNOWN_EXPERIMENT),)
    handler = TABLE.get((job.phase, name))
    if handler is None:
        raise IllegalStimulus(f"{name} in phase {job.phase}")
    return handler(agenda, job, stimulus)


def _next_for_slot(agenda: Agenda) -> Decisions:
    """Who gets the free slot: the first in the queue that may begin now. What was accepted goes on while paused."""
    if agenda.running is not None or not agenda.open:
        return ()
    for experiment in agenda.queue:
        new = agenda.jobs[experiment].phase is Phase.PREPARING
        if not (new and (agenda.paused or agenda.draining)):
            return (Begin(experiment),)
    return ()


def waits_for_hours(agenda: Agenda) -> bool:
    """Whether nothing but the operator's hours keeps the site from work: some is queued, or was refused for them."""
    if agenda.open or agenda.running is not None:
        return False
    refused = any(job.reason is Reason.OUTSIDE_HOURS for job in agenda.jobs.values() if job.phase is not Phase.ENDED)
    return (refused and not agenda.paused) or bool(_next_for_slot(replace(agenda, open=True)))


_STANDING = tuple(phase for phase in Phase if phase is not Phase.UNKNOWN)
_AT_WORK = (Phase.FETCHING, Phase.TRAINING, Phase.SENDING, Phase.EVALUATING)


def _table() -> dict[tuple[Phase, str], Handler]:
    rows: dict[tuple[Phase, str], Handler] = {}

    def row(phases: tuple[Phase, ...], what: str | type, handler: Handler) -> None:
        for phase in phases:
            rows[phase, what if isinstance(what, str) else what.__name__] = handler

    for kind in HEARD:
        row(_STANDING, kind, h.refused_here(Reason.WRONG_STATE))
    for own in OWN:
        row(_STANDING, own, h.stale)
    row(_STANDING, "experiment-accepted", h.accepted_again)
    for kind in ("round-start", "evaluation-start"):
        row((Phase.IDLE, *_AT_WORK), kind, h.announced)
        row((Phase.AWAITING, Phase.PREPARING), kind, h.held)
    row((Phase.FETCHING, Phase.TRAINING, Phase.SENDING), "round-complete", h.completed)
    row((Phase.AWAITING, Phase.PREPARING), "round-complete", h.forget_held)
    living = tuple(phase for phase in _STANDING if phase is not Phase.ENDED)
    for kind in ("experiment-complete", "experiment-failed", "experiment-aborted"):
        row(living, kind, h.ended)
    for kind in ("experiment-paused", "experiment-resumed"):
        row(living, kind, h.suspended)
    row((Phase.SENDING,), "chunks-wanted", h.chunks_wanted)

    row((Phase.AWAITING,), Approved, h.approved)
    row((Phase.PREPARING,), Prepared, h.prepared)
    row((Phase.IDLE, Phase.FETCHING, Phase.TRAINING, Phase.EVALUATING), Prepared, h.prepared_again)
    row((Phase.FETCHING, Phase.EVALUATING), ModelReady, h.model_ready)
    row((Phase.FETCHING, Phase.TRAINING, Phase.EVALUATING), NoSpace, h.no_space)
    row((Phase.TRAINING,), Trained, h.trained)
    row((Phase.EVALUATING,), Scored, h.scored)
    row(NEEDS_SLOT, TrainerFailed, h.failed)
    row(NEEDS_SLOT, TrainerDied, h.died)
    row((Phase.SENDING,), ChunksSent, h.of_this_update(h.chunks_sent))
    row((Phase.SENDING,), UpdateLost, h.of_this_update(lambda job: Redo(job.experiment)))
    row((Phase.SENDING,), Receipted, h.of_this_update(lambda job: Deliver(job.experiment)))
    # A trainer that was never asked cannot have said anything: what says so is broken.
    for own in (Trained, Scored, ChunksSent, UpdateLost, Receipted):
        rows.pop((Phase.AWAITING, own.__name__))
    return rows


TABLE = _table()
"""(phase, kind of event or name of own stimulus) → handler; own pairs that are absent are illegal."""


def restored(agenda: Agenda) -> Agenda:
    """The agenda as it comes out of the spool: nobody waits and nobody runs until `Restarted` is handled."""
    return replace(agenda, queue=(), running=None)
