"""Deliveries of the inbox and of `downlink`: checked, told to the agenda, stored with their position, acknowledged."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from messages.abilities import ANNOUNCING, read_abilities
from messages.bus.base import Delivery, Position, digest_of
from messages.envelope import Event, check_origin, decode_event, decode_stored
from messages.ground import logs
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError, MalformedMessage, RequestError
from messages.kinds import (
    KINDS,
    CheckAnswer,
    Declined,
    ExperimentAccepted,
    ExperimentChecked,
    LastHeard,
    Receipt,
    Refused,
    RegisterAnnounced,
    RoundComplete,
    Standing,
)
from messages.log.witness import HeadFinding
from messages.names import COORDINATOR, DOWNLINK
from messages.reasons import Reason
from messages.trust.chains import Chains
from messages.trust.signatures import AFTER, KEY, digest_payload
from messages.trust.verifier import Verifier
from site_agent.core.effects import Effect, Say
from site_agent.core.equivocation import COMPARED, is_contradiction
from site_agent.core.inputs import Distrusted, Heard, PartBroken, Receipted, Retried
from site_agent.core.jobs import AT_WORK, Phase, event_of
from site_agent.core.policy import ANY_KEY, PolicyVerdict, in_known_words
from site_agent.core.steps import STEPS, opening_of
from site_agent.disk.lineage import Lineage
from site_agent.disk.spool import Spool
from site_agent.loop.effect_runner import EffectRunner
from site_agent.loop.orientation import Orientation, keep_abilities, read_kept
from site_agent.loop.rules import Rules
from site_agent.loop.steps import Steps
from site_agent.loop.witness import Witness
from site_agent.wire.outbox import Outbox

log = structlog.get_logger()

FORSAKEN = (Phase.PREPARING, *AT_WORK)
"""What a site leaves at once where the log was forked."""
OLD = 60.0
"""Seconds before the agent's start: what was said earlier is history that it reads up."""
REGISTER = "register"
"""Where the spool keeps the newest register."""
QUIET = 2.0
"""Seconds without any more history until it is read."""


class Inbound:
    """Hears the coordinator. Owned by the main loop.

    Args:
        verifier: asked before an event is believed.
        ack: acknowledges a delivery.
        post: hands a closure to the main loop, for what must wait for the transaction's end.
    """

    def __init__(
        self,
        consortium: str,
        *,
        spool: Spool,
        lineage: Lineage,
        steps: Steps,
        errands: EffectRunner,
        voice: Outbox,
        rules: Rules,
        verifier: Verifier,
        witness: Witness,
        orientation: Orientation,
        clock: Clock,
        ack: Callable[[Delivery], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._consortium, self._spool, self._steps, self._errands = consortium, spool, steps, errands
        self._lineage = lineage
        self._voice, self._rules, self._clock, self._ack, self._post = voice, rules, clock, ack, post
        self._verifier, self._chains = verifier, Chains()
        self._witness, self._orientation = witness, orientation
        self.heard_at: dict[str, float] = {}
        """When the coordinator last said something of an experiment; monotonic."""
        self.coordinator_can = read_kept(spool)
        """What the coordinator's version can beside 0.1, as it said last: nothing else that is new is said to it."""
        self._began, self._history_at = clock.wall(), float("-inf")
        self.set_aside = 0
        self.refusals: dict[str, int] = {}

    def has_read_history(self) -> bool:
        """Whether what was said before this agent's start is read: before that, what is announced may be over a few
        events later."""
        return self._clock.monotonic() - self._history_at >= QUIET

    def take_delivery(self, delivery: Delivery) -> None:
        """Handle one delivery."""
        try:
            event = decode_event(delivery.body)
            check_origin(event, delivery.key, delivery.user, self._consortium)
            if isinstance(event.body, RegisterAnnounced):
                self._take_register(
                    event.body.note
                )  # the operator's word: it may bring the key that this is signed with
            self._verifier.check_event(event, delivery.queue, self._clock.wall())
            if delivery.queue == DOWNLINK and event.seq and self._verifier.register is not None:
                self._follow_chain(event)
        except MalformedMessage as error:
            self._refuse_delivery(error.reason, delivery.queue)
            event = None
        if event is not None and event.known and KINDS[event.kind].history and event.time < self._began - OLD:
            self._history_at = self._clock.monotonic()
        if not self._orientation.keep_back(event, lambda: self._handle(delivery, event)):
            self._handle(delivery, event)
        self._ack(delivery)

    def _handle(self, delivery: Delivery, event: Event | None) -> None:
        with logs.bind_experiment(*((event.experiment, event.round) if event else ())):
            self._errands.perform_effects(self._store_delivery(delivery, event))

    def _store_delivery(self, delivery: Delivery, event: Event | None) -> list[Effect]:
        """Handle and store one delivery; one that cannot be handled is set aside."""

        def work(handled: Event | None) -> list[Effect]:
            todo = [] if handled is None else self._take_event(handled)
            if delivery.offset is not None:
                position = Position(delivery.offset, digest_of(delivery.body))
                self._spool.set_position(delivery.queue, position)
            return todo

        try:
            return self._steps.atomically(lambda: work(event))
        except KonsilError:
            raise  # the disk is full and the agent stops: it comes again
        except Exception:
            self.set_aside += 1
            log.critical("an event could not be handled and is set aside", exc_info=True)
        try:
            return self._steps.atomically(lambda: [*work(None), *self._tell_broken(event)])
        except KonsilError:
            raise
        except Exception:
            log.critical("nor can that be told", exc_info=True)
            return self._steps.atomically(lambda: work(None))

    def _tell_broken(self, event: Event | None) -> list[Effect]:
        """What waits for an answer to an event that could not be handled gets a code; inside a transaction."""
        if event is None or event.sender != COORDINATOR:
            return []
        site, job = self._steps.agenda.site, self._steps.agenda.job_of(event.experiment)
        if event.kind in STEPS and job is not None:
            return self._steps.take_step(PartBroken(job.experiment, round=event.round, opening=opening_of(event)))
        if (
            isinstance(event.body, ExperimentAccepted)
            and job is None
            and site in event.body.experiment.get("sites", ())
        ):
            why = Reason.TRAINING_ERROR
            self._voice.say_event(Say("declined", event.experiment, 0, Declined(reason=why), why), self._clock.wall())
        return []

    def _take_event(self, event: Event, *, embedded: bool = False) -> list[Effect]:
        """Handle an event of the coordinator; inside a transaction. Returns what is to be done after it."""
        if event.sender != COORDINATOR or event.consortium != self._consortium:
            self._refuse_delivery(Reason.SENDER_MISMATCH, event.kind)
            return []
        if not embedded and not self._is_of_this_term(event):
            self._refuse_delivery(Reason.OLD_TERM, event.kind)
            return []
        self.heard_at[event.experiment] = self._clock.monotonic()
        if not event.known:
            self._refuse_delivery(Reason.UNKNOWN_KIND, event.kind)
            return []
        if event.kind in ANNOUNCING and not embedded:
            self._note_abilities(read_abilities(event.ext))
        body = event.body
        now = self._clock.wall()
        if isinstance(body, Receipt):
            return [effect for identity in body.events for effect in self._take_receipt(identity, now)]
        if isinstance(body, Standing):
            return self._take_standing(body)
        if isinstance(body, ExperimentChecked):
            self._answer_check(body, event.experiment)
            return []
        if isinstance(body, RegisterAnnounced):
            return []
        if isinstance(body, LastHeard):
            self._orientation.take_last_heard(body)
            return []
        if event.kind == "coordinator-hello":
            self._post(self._voice.send_hello)
            return []
        if event.kind == "log-head":
            return self._take_head(event)
        # What is said of an experiment that is unknown here says nothing yet: it counts once the experiment is known.
        known = isinstance(body, ExperimentAccepted) or self._steps.agenda.job_of(event.experiment) is not None
        if known and isinstance(body, COMPARED) and self._contradicts_itself(event, now):
            return self._steps.take_step(Distrusted(event.experiment, Reason.EQUIVOCATION))
        if known and KINDS[event.kind].history and not self._spool.note_seen(event.id, now):
            return []
        if isinstance(body, RoundComplete):
            self._note_outcome(event, body)
        if isinstance(body, Refused):
            log.warning("refused by the coordinator", kind=body.kind, reason=body.reason, experiment=event.experiment)
        return self._steps.take_step(self._make_input(event))

    def _note_abilities(self, abilities: frozenset[str]) -> None:
        if abilities != self.coordinator_can:
            self.coordinator_can = abilities
            keep_abilities(self._spool, abilities)

    def _is_of_this_term(self, event: Event) -> bool:
        """Whether the coordinator that says this is the newest one that was heard (protocol rule 6).

        Where the coordinator has a key, terms count that were said under a key of its that is not revoked: a forged one
        locks nobody out for longer than the operator needs to give the coordinator another key.
        """
        keys = self._verifier.list_speaking(COORDINATOR, self._clock.wall())
        known = self._spool.find_term(keys)
        if event.term < known:
            return False
        if event.term > known:
            if known and event.term > known + 1:
                self._spool.note_jump(known, event.term)
                log.warning(
                    "the coordinator speaks under a term that does not follow from the one before",
                    term=event.term,
                    before=known,
                    advice="its journal was restored or cut, or its starts between were not heard: ask its operator",
                )
            self._spool.note_term(event.term, None if keys is None else str(event.ext.get(KEY)))
        return True

    def _follow_chain(self, event: Event) -> None:
        """Note an event's place in the coordinator's chain; tell of what was held back from this site."""
        now, after = self._clock.monotonic(), event.ext.get(AFTER)
        place = event.incarnation, event.seq
        fork = self._chains.note_event(
            event.sender, place, event.id, digest_payload(event.raw), None if after is None else str(after), now
        )
        for found in (*self._chains.list_missing(now), *([fork] if fork else ())):
            log.warning(
                f"the chain of the coordinator's events is broken: {found.what}",
                term=found.incarnation,
                before=found.seq,
                digest=found.digest[:16],
            )

    def _contradicts_itself(self, event: Event, now: float) -> bool:
        """Whether the coordinator has signed another version of an event: both are kept then."""
        if self._verifier.register is None:
            return False
        first = self._spool.note_heard(event, now)
        if first is None or first == event.raw:
            return False
        if not is_contradiction(decode_stored(first), event, self._steps.agenda.site):
            return False
        self._spool.keep_evidence(event.id, Reason.EQUIVOCATION, first, event.raw, now)
        log.critical(
            "the coordinator has signed two versions of one event: this site takes no more part in the experiment",
            kind=event.kind,
            experiment=event.experiment,
            round=event.round,
            reason=Reason.EQUIVOCATION,
            advice="both are kept in the spool; tell the consortium's operator",
        )
        return True

    def _take_register(self, note: bytes) -> None:
        try:
            self._verifier.take_register(note)
        except (MalformedMessage, RequestError) as error:
            self._refuse_delivery(str(getattr(error, "reason", Reason.NOT_ALLOWED)), f"register: {error.what}")
            return
        new = self._verifier.register
        if new is not None and self._spool.get_kept(REGISTER) != note:
            self._spool.put_kept(REGISTER, note)
            log.info("register", serial=new.serial, parties=len(new.keys), signatures=new.signatures)
            self._voice.note_register(new)

    def seek_proofs(self) -> None:
        """Ask again for what a round waits for: a proof that the log follows, or who cosigned it."""
        if any(
            job.reason is Reason.UNPROVEN_LOG and job.pending is not None for job in self._steps.agenda.jobs.values()
        ):
            self._witness.ask_for_proof()

    def judge_key(self) -> None:
        """Whether our key is good at this moment: it ends, and clocks are set."""
        if self._verifier.register is not None:
            self._voice.note_register(self._verifier.register)

    def _take_head(self, event: Event) -> list[Effect]:
        """A head of the log: a fork ends what the site does; a head that follows lets it do what it waited with."""
        finding, jobs = self._witness.hear_head(event), list(self._steps.agenda.jobs.values())
        if finding is HeadFinding.FORKED:
            left = [PartBroken(job.experiment, Reason.FORKED_LOG) for job in jobs if job.phase in FORSAKEN]
            return [effect for one in left for effect in self._steps.take_step(one)]
        again = [job for job in jobs if job.reason is Reason.UNPROVEN_LOG and job.pending is not None]
        todo: list[Effect] = []
        for job in again:
            if job.pending is not None and self._witness.find_obstacle(event_of(job.pending), job.file) is None:
                todo += self._steps.take_step(Retried(job.experiment))
        return todo

    def _note_outcome(self, event: Event, body: RoundComplete) -> None:
        site = self._steps.agenda.site
        if (why := body.left_out.get(site)) is not None:
            log.warning("left out of a round", reason=why, experiment=event.experiment, round=event.round)
        used = site in body.contributors
        began = event.round - (body.staleness or {}).get(site, 0)
        self._lineage.note_model(event.experiment, event.round, body.model_digest, used=used, began=began)

    def _make_input(self, event: Event) -> Heard:
        job = self._steps.agenda.job_of(event.experiment)
        if isinstance(event.body, ExperimentAccepted):
            verdict = self._rules.judge_accepted(event.body)
            if self._witness.forked and verdict.reason is not Reason.NOT_INVITED:
                verdict = PolicyVerdict(Reason.FORKED_LOG)
        elif event.kind in STEPS and job is not None:
            verdict = self._rules.judge_experiment(job.file, job.researcher, job.signer)
            if verdict.allowed and (doubt := self._witness.find_obstacle(event, job.file)) is not None:
                verdict = PolicyVerdict(doubt)
        else:
            return Heard(event)
        return Heard(event, in_known_words(verdict, self.coordinator_can), self._rules.opens_in())

    def _take_standing(self, body: Standing) -> list[Effect]:
        todo: list[Effect] = []
        for raw in body.events:
            try:
                event = decode_event(raw)
                self._verifier.check_enclosed(event, DOWNLINK, self._clock.wall(), "coordinator")
                todo += self._take_event(event, embedded=True)
            except MalformedMessage as error:
                self._refuse_delivery(error.reason, "standing")
        return todo

    def _take_receipt(self, identity: str, now: float) -> list[Effect]:
        event = self._voice.take_receipt(identity, now)
        if event is None or event.kind != "weights-ready":
            return []
        return self._steps.take_step(Receipted(event.experiment, event.round, event.attempt))

    def _answer_check(self, body: ExperimentChecked, experiment: str) -> None:
        forecast = self._rules.judge_experiment(body.experiment, body.researcher, ANY_KEY)
        verdict = in_known_words(forecast, self.coordinator_can)
        if verdict.reason is Reason.NOT_INVITED:
            return
        agenda = self._steps.agenda
        stands = Reason.SITE_DRAINING if agenda.draining else Reason.SITE_PAUSED if agenda.paused else None
        if stands is None and agenda.job_of(experiment) is None and not agenda.may_open(body.researcher, verdict.most):
            stands = Reason.TOO_MANY_EXPERIMENTS
        if (reason := verdict.reason or stands) is not None:
            self._send_answer(CheckAnswer(nonce=body.nonce, accepts=False, reason=reason), experiment)
            return
        # It would, once somebody has looked at it.
        hand = Reason.AWAITS_APPROVAL if verdict.by_hand else None

        def look() -> None:
            accepts, found = self._rules.foresee_trouble(body.experiment)
            answer = CheckAnswer(nonce=body.nonce, accepts=accepts, reason=found if not accepts else hand or found)
            self._send_answer(answer, experiment)

        self._clock.make_thread(look, "forecast").start()

    def _send_answer(self, answer: CheckAnswer, experiment: str) -> None:
        self._post(lambda: self._voice.send_live("check-answer", answer, experiment=experiment))

    def _refuse_delivery(self, reason: str, what: str) -> None:
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        log.warning("message refused", reason=reason, what=what)
