"""Deliveries of the inbox and of `downlink`: checked, told to the agenda, stored with their position, acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import structlog

from messages.abilities import ANNOUNCING, read_abilities
from messages.bus.base import Delivery, Position, digest_of
from messages.envelope import Event, check_origin, decode
from messages.ground import logs
from messages.ground.errors import MalformedMessage
from messages.kinds import (
    KINDS,
    CheckAnswer,
    ExperimentAccepted,
    ExperimentChecked,
    Receipt,
    Refused,
    RoundComplete,
    Standing,
)
from messages.names import COORDINATOR
from messages.reasons import Reason
from site_agent.core.agenda import IllegalInput
from site_agent.core.effects import Effect
from site_agent.core.inputs import Heard, Receipted
from site_agent.core.steps import STEPS
from site_agent.disk.spool import Spool
from site_agent.loop.effect_runner import Errands
from site_agent.loop.rules import Rules
from site_agent.loop.steps import Steps
from site_agent.wire.outbox import Post

log = structlog.get_logger()


class Hearing:
    """Hears the coordinator. Owned by the main loop.

    Args:
        ack: acknowledges a delivery.
        post: hands a closure to the main loop, for what must wait for the transaction's end.
    """

    def __init__(
        self,
        consortium: str,
        *,
        spool: Spool,
        steps: Steps,
        errands: Errands,
        voice: Post,
        rules: Rules,
        ack: Callable[[Delivery], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._consortium, self._spool, self._steps, self._errands = consortium, spool, steps, errands
        self._voice, self._rules, self._ack, self._post = voice, rules, ack, post
        self.heard_at: dict[str, float] = {}
        """When the coordinator last said something of an experiment; monotonic."""
        self.coordinator_can: frozenset[str] = frozenset()
        """What the coordinator's version can beside 0.1, as it said last: nothing else that is new is said to it."""
        self.set_aside = 0
        self.refusals: dict[str, int] = {}

    def take(self, delivery: Delivery) -> None:
        """Handle one delivery."""
        try:
            event = decode(delivery.body)
            check_origin(event, delivery.key, delivery.user, self._consortium)
        except MalformedMessage as error:
            self._refuse(error.reason, delivery.queue)
            event = None
        with logs.about(*((event.experiment, event.round) if event else ())):
            self._errands.perform(self._store(delivery, event))
        self._ack(delivery)

    def _store(self, delivery: Delivery, event: Event | None) -> list[Effect]:
        """Handle and store one delivery; one that cannot be handled is set aside."""

        def work(handled: Event | None) -> list[Effect]:
            todo = [] if handled is None else self._hear(handled)
            if delivery.offset is not None:
                position = Position(delivery.offset, digest_of(delivery.body))
                self._spool.set_position(delivery.queue, position)
            return todo

        try:
            return self._steps.atomically(lambda: work(event))
        except IllegalInput:
            self.set_aside += 1
            log.critical("an event could not be handled and is set aside", exc_info=True)
            return self._steps.atomically(lambda: work(None))

    def _hear(self, event: Event, *, embedded: bool = False) -> list[Effect]:
        """Handle an event of the coordinator; inside a transaction. Returns what is to be done after it."""
        if event.sender != COORDINATOR or event.consortium != self._consortium:
            self._refuse(Reason.SENDER_MISMATCH, event.kind)
            return []
        if not embedded:
            if event.term < self._spool.term:
                self._refuse(Reason.OLD_TERM, event.kind)
                return []
            self._spool.raise_term(event.term)
        self.heard_at[event.experiment] = time.monotonic()
        if not event.known:
            self._refuse(Reason.UNKNOWN_KIND, event.kind)
            return []
        if event.kind in ANNOUNCING and not embedded:
            self.coordinator_can = read_abilities(event.ext)
        body = event.body
        now = time.time()
        if isinstance(body, Receipt):
            return [effect for identity in body.events for effect in self._receipt(identity, now)]
        if isinstance(body, Standing):
            return self._standing(body)
        if isinstance(body, ExperimentChecked):
            self._answer_check(body, event.experiment)
            return []
        if event.kind == "coordinator-hello":
            self._post(self._voice.hello)
            return []
        if KINDS[event.kind].history and not self._spool.see(event.id, now):
            return []
        if isinstance(body, RoundComplete) and (why := body.left_out.get(self._steps.agenda.site)) is not None:
            log.warning("left out of a round", reason=why, experiment=event.experiment, round=event.round)
        if isinstance(body, Refused):
            log.warning("refused by the coordinator", kind=body.kind, reason=body.reason, experiment=event.experiment)
        return self._steps.step(self._heard(event))

    def _heard(self, event: Event) -> Heard:
        job = self._steps.agenda.job(event.experiment)
        if isinstance(event.body, ExperimentAccepted):
            verdict = self._rules.accepted(event.body)
        elif event.kind in STEPS and job is not None:
            verdict = self._rules.judge(job.file, job.researcher)
        else:
            return Heard(event)
        return Heard(event, verdict, self._rules.opens_in(datetime.now()))

    def _standing(self, body: Standing) -> list[Effect]:
        todo: list[Effect] = []
        for raw in body.events:
            try:
                todo += self._hear(decode(raw), embedded=True)
            except MalformedMessage as error:
                self._refuse(error.reason, "standing")
        return todo

    def _receipt(self, identity: str, now: float) -> list[Effect]:
        event = self._voice.receipted(identity, now)
        if event is None or event.kind != "weights-ready":
            return []
        return self._steps.step(Receipted(event.experiment, event.round, event.attempt))

    def _answer_check(self, body: ExperimentChecked, experiment: str) -> None:
        verdict = self._rules.judge(body.experiment, body.researcher)
        if verdict.reason is Reason.NOT_INVITED:
            return
        reason = verdict.reason or (Reason.SITE_DRAINING if self._steps.agenda.draining else None)
        accepts = reason is None
        if accepts and verdict.by_hand:
            reason = Reason.AWAITS_APPROVAL  # it would: once somebody has looked at it
        answer = CheckAnswer(nonce=body.nonce, accepts=accepts, reason=reason)
        self._post(lambda: self._voice.live("check-answer", answer, experiment=experiment))

    def _refuse(self, reason: str, what: str) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        log.warning("message refused", reason=reason, what=what)
