"""One input: decided, journaled, then acted on; what raises is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import structlog

from coordinator.core import decisions as d
from coordinator.core import effects as e
from coordinator.core import inputs as i
from coordinator.core.announce import Announcement
from coordinator.core.evolve import evolve
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState, Phase
from coordinator.core.steps.table import STEPS
from coordinator.loop.doubts import Doubts
from coordinator.loop.effect_runner import EffectRunner
from coordinator.loop.floods import Floods
from coordinator.loop.origins import ModelOrigins
from coordinator.loop.tally import Tally
from coordinator.loop.timers import Gate
from coordinator.record.heads import LogHeads
from coordinator.record.journal import ASIDE, NOTHING, STEP, Journal, Written
from coordinator.record.recovery import recover_states, step_body
from coordinator.wire.announcer import Announcer
from coordinator.wire.incoming import ChunkReceiver
from coordinator.wire.openings import SaidOpenings
from coordinator.wire.outgoing import Audit, Events, Models
from coordinator.wire.presence import Presence
from coordinator.wire.rates import Turnstile
from coordinator.wire.reading_back import ReadingBack
from coordinator.work.pool import Work
from messages import codec, kinds
from messages.bus.base import Position
from messages.envelope import Event
from messages.ground import crash, logs
from messages.ground.clock import Clock, Queue
from messages.ground.logs import Complaints
from messages.ground.naming import NO_EXPERIMENT
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.trust.verifier import Verifier

log = structlog.get_logger("coordinator")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the shell works with; put together in `coordinator.service`."""

    journal: Journal
    clock: Clock
    gate: Gate
    say: Announcer
    events: Events
    models: Models
    audit: Audit
    receiver: ChunkReceiver
    work: Work
    presence: Presence
    own_word: ReadingBack
    turnstile: Turnstile
    origins: ModelOrigins
    verifier: Verifier
    heads: LogHeads | None = None
    openings: SaidOpenings | None = None


_NOTHING_NEW = (d.Refused, d.StartRefused, d.Settled)


def _changes_nothing(decided: tuple[d.AnyDecision, ...]) -> str | None:
    """The reason of a refusal that leaves the state as it is ("duplicate" where there is none); None: it is changed."""
    if not all(isinstance(one, _NOTHING_NEW) for one in decided):
        return None
    reasons = (one.reason.value for one in decided if isinstance(one, d.Refused | d.StartRefused))
    return next(reasons, Reason.DUPLICATE.value)


def _sender_of(given: i.AnyInput) -> str:
    return given.event.sender if isinstance(given, i.Received) else COORDINATOR


WAITED_FOR = frozenset({"joined", "declined", "round-failed", *(row.answers for row in STEPS.values())})
"""A site's events without which an experiment waits."""
FINAL = frozenset({"experiment-abort", "experiment-finish", "experiment-exclude"})
"""What a researcher may always say: each changes an experiment, or a site in it, once."""


def explain_unhandled(event: Event, known: bool) -> tuple[e.Effect, ...]:
    """What the sender of an event that could not be handled is told.

    Args:
        known: whether its experiment is known.
    """
    why, name = Reason.AGGREGATION_FAILED, event.experiment
    receipt = e.Acknowledge(event.sender, event.id, name)
    if event.kind == "experiment-start" and not known:
        body = kinds.ExperimentRefused(reason=why, event=event.id)
        return (e.Announce(Announcement("experiment-refused", name, body, attempt=event.id)), receipt)
    return (e.Tell(event.sender, name, event.round, event.id, event.kind, why), receipt)


class HeldBack(Protocol):
    """What input waits for a later state of its experiment."""

    def put_back(self, positions: Mapping[str, Position]) -> None:
        """Store these positions with the next entry."""

    def holds_back(self, experiment: str) -> bool:
        """Whether something of this experiment waits."""

    def take_held_back(self, experiment: str) -> None:
        """Take what the experiment has come to."""


class Steps:
    """Every experiment's state, and the one way in which it changes. Main loop's thread.

    Attributes:
        inbound: where input came from; set before the first step.
    """

    inbound: HeldBack

    def __init__(self, parts: Parts, inputs: Queue[Any]) -> None:
        self.parts, self.queue = parts, inputs
        self.tally = Tally()
        self.floods = Floods()
        self.complaints = Complaints(parts.clock.monotonic)
        self.doubts = Doubts()
        self.states: dict[str, ExperimentState] = recover_states(parts.journal.entries())
        self.timed = {name: state for name, state in self.states.items() if state.timers}
        """Those that a timer runs for: the loop looks at them after every message, never at all there ever were."""
        self.hands = EffectRunner(
            parts.journal,
            parts.say,
            parts.models,
            parts.receiver,
            parts.work,
            inputs,
            lambda experiment, reason, what: self.set_aside(experiment, reason, what, NOTHING),
            parts.heads,
        )

    def take_step(self, experiment: str, given: i.AnyInput, written: Written = NOTHING) -> bool:
        """Decide, journal, then act; what raises is set aside. False where there was nothing to decide."""
        state = self.states.get(experiment)
        with logs.bind_experiment(  # one that is not known is a sender's own words
            experiment if state is not None else None,
            state.round.number if state is not None and state.round is not None else None,
        ):
            return self._take_step(experiment, state, given, written)

    def _take_step(self, experiment: str, state: ExperimentState | None, given: i.AnyInput, written: Written) -> bool:
        try:
            decided = decide(state, given)
            after, todo = state, list[e.Effect]()
            made: list[tuple[ExperimentState | None, d.AnyDecision]] = []
            for decision in decided:
                made.append((after, decision))
                after = evolve(after, decision)
                todo += e.effects(after, decision)
            body = codec.pack(step_body(given, decided)) if decided else b""
            announced = sum(len(codec.pack(one.what.body.as_plain())) for one in todo if isinstance(one, e.Announce))
        except Exception as error:
            reason, sender = type(error).__name__, _sender_of(given)
            if self.complaints.count_messages(sender, reason):
                log.exception("an input is set aside", error=reason, sender=sender)
            self._set_input_aside(experiment, given, reason, written)
            return False
        if not decided:
            if written != NOTHING:
                self.parts.journal.note_written(written)
            if state is not None and state.phase is Phase.COMPLETE and isinstance(given, i.UpdateStored):
                # It was verified while the experiment was finished: nobody needs it any more.
                self.hands.carry_out(e.Prune(state.id, e.needed_blobs(state)))
            return False
        if isinstance(given, i.Received) and not self._has_room(given, decided, len(body) + announced):
            # It is as if it had not come: no state changes, nobody is told, and without a receipt it is said again.
            self.inbound.put_back(written.positions)
            return False
        # Refused at once, an update's event is settled at once, too: said again, it gets its receipt again.
        settled = {one.event: True for one in todo if isinstance(one, e.Acknowledge)}
        home = experiment if after is not None else NO_EXPERIMENT
        self.parts.journal.append_entry(
            home,
            STEP,
            body,
            time=given.time,
            written=replace(written, seen={**written.seen, **settled}),
        )
        crash.pass_step(f"coordinator:{i.kind_of(given)}")
        if after is not None:
            self.states[experiment] = after
            self._note_timers(experiment, after)
        self._log_step(experiment, given, state, after)
        for found, decision in made:
            self.tally.count_decision(found, decision, given.time)
            self.doubts.note_decision(found, decision)
        self.parts.audit.wake_up()
        for effect in todo:
            self.hands.carry_out(effect)
        if self.inbound.holds_back(experiment):
            self.queue.put(partial(self.inbound.take_held_back, experiment))
        return True

    def _has_room(self, given: i.Received, decided: tuple[d.AnyDecision, ...], size: int) -> bool:
        """Whether an event's entry, and what it makes us announce, fit into what its sender may write in an hour."""
        sender, reason = given.event.sender, _changes_nothing(decided)
        if reason is not None:
            return self.floods.may_journal(sender, reason, size, given.time)
        known = given.event.experiment if given.event.experiment in self.states else None
        if given.event.kind in FINAL or self.floods.may_take(sender, size, given.time, known):
            return True
        if self.complaints.count_messages(sender, "hour-is-full"):
            log.warning("a sender has written as much as it may in an hour", sender=sender)
        return False

    def _may_keep(self, given: i.Received, reason: str) -> bool:
        return self.floods.may_journal(given.event.sender, reason, len(given.raw), given.time)

    def _set_input_aside(self, experiment: str, given: i.AnyInput, reason: str, written: Written) -> None:
        """Keep an input that raised, whole, and tell of it; of an event beyond its sender's bound nothing is kept."""
        if isinstance(given, i.Received) and not self._may_keep(given, reason):
            self.tally.set_aside += 1
            self.inbound.put_back(written.positions)
        else:
            self.set_aside(experiment, reason, i.to_plain(given), written)
            self._tell_sender(given, experiment in self.states)
        self._tell_experiment(experiment, given)

    def _tell_sender(self, given: i.AnyInput, known: bool) -> None:
        """Whose event was set aside is told, and gets its receipt: the whole event is in the journal."""
        if isinstance(given, i.Received):
            for effect in explain_unhandled(given.event, known):
                self.hands.carry_out(effect)
            self.parts.journal.note_written(Written({i.identify_event(given.event): True}, {}))

    def _tell_experiment(self, experiment: str, given: i.AnyInput) -> None:
        """What was set aside ends as a code: what waits for it does not wait in vain. A timer is tried again first
        (`loop.shell`)."""
        if experiment not in self.states or isinstance(given, i.TimerFired):
            return
        if isinstance(given, i.HandlingFailed) and given.kind == i.kind_of(given):
            return
        now = self.parts.clock.now()
        if isinstance(given, i.Received):
            event = given.event
            site = event.sender if event.kind in WAITED_FOR else None
            told = i.HandlingFailed(time=now, kind=event.kind, site=site, round=event.round)
        else:
            site, number = getattr(given, "site", None), getattr(given, "round", 0)
            told = i.HandlingFailed(time=now, kind=i.kind_of(given), site=site, round=number)
        self.take_step(experiment, told)

    def set_aside(self, experiment: str, reason: str, what: Any, written: Written) -> None:
        """Keep what could not be handled as an entry of its own; recovery skips it."""
        home = experiment if experiment in self.states else NO_EXPERIMENT
        body = {"reason": reason, "what": what}
        self.tally.set_aside += 1
        self.parts.journal.append_entry(home, ASIDE, body, time=self.parts.clock.now(), written=written)
        self.parts.audit.wake_up()

    def count_floods(self, *, all_: bool = False) -> None:
        """One entry for each sender of whom something was only counted."""
        for flood in self.floods.end_hours(self.parts.clock.now(), all_=all_):
            log.warning("refused messages were only counted", sender=flood.sender, counted=flood.counted)
            what = {"sender": flood.sender, "since": flood.since, "counted": flood.counted}
            self.set_aside(NO_EXPERIMENT, "flood", what, NOTHING)

    def _note_timers(self, experiment: str, state: ExperimentState) -> None:
        if state.timers:
            self.timed[experiment] = state
        else:
            self.timed.pop(experiment, None)

    def _log_step(
        self,
        experiment: str,
        given: i.AnyInput,
        before: ExperimentState | None,
        after: ExperimentState | None,
    ) -> None:
        kind = i.kind_of(given)
        sender = _sender_of(given)
        phase = after.phase.value if after else "none"
        changed = before is None or after is None or before.phase is not after.phase
        more: dict[str, Any] = {}
        if (site := getattr(given, "site", sender)) in (after.members if after else ()):
            more["site"] = site
        if after is not None and after.round is not None:
            more["round"] = after.round.number
        if after is not None:
            more["experiment"] = experiment
        (log.info if changed else log.debug)(kind, sender=sender, phase=phase, entry=self.parts.journal.number, **more)
