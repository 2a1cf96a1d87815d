"""What comes in on uplink and the coordinator's inbox: checked, counted, and brought to the state machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256

import structlog

from coordinator.config import CoordinatorConfig
from coordinator.core import inputs as i
from coordinator.core.records import NO_BOUNDS, Bounds
from coordinator.core.state import Standing
from coordinator.loop import floods
from coordinator.loop.ahead import Ahead
from coordinator.loop.file_checks import MOST_FILE_BYTES, check_file
from coordinator.loop.kept_models import KeptModels
from coordinator.loop.returning import Returning
from coordinator.loop.signed_word import SignedWord
from coordinator.loop.steps import Parts, Steps
from coordinator.record.journal import Written
from coordinator.wire.incoming import Nudge
from coordinator.wire.last_heard import LastWord
from coordinator.wire.rates import NOBODY, Allowances, Skipped
from messages import envelope, kinds
from messages.bus.base import Delivery, Position, digest_of
from messages.envelope import Event
from messages.ground.errors import KonsilError, MalformedMessage, NameTaken, UnboundedMessage
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import KINDS
from messages.names import COORDINATOR, UPLINK
from messages.reasons import Reason

log = structlog.get_logger("coordinator.loop.inbound")
OF_STATISTICS = frozenset({"statistics-ready", "round-accepted", "round-failed"})
"""What a site says of round 0, in which statistics are told."""
CATCH_UP = 120.0
"""Seconds after a start in which sites that were told of later rounds say again what has no receipt (every 30 s)."""
PROVE_EVERY = 1.0
"""Seconds between two answers to a site that asks for proofs of the log's heads; honest ones ask every 5 s at most."""
MOST_CHECKS, CHECKS_A_SECOND = 3.0, 1.0
"""Files of a researcher that sites are asked about: at once, and in each second."""
CHECK_BYTES = 2**20
"""Their bytes in an hour: each goes to all."""
DAY = 86400.0
KEPT_BYTES = 4096
"""Of a message that is set aside: its digest names the rest, so that rubbish cannot fill the journal."""


class Inbound:
    """Handles deliveries, on the main loop's thread.

    Args:
        parts: the journal, the clock and what speaks for us.
        steps: what decides, and keeps what came of it.
        returning: what tells a site where things are.
        opened: told when a mark of ours came back.
        ack: acknowledges a delivery.
        last_word: notes where each sender was heard.
    """

    def __init__(
        self,
        parts: Parts,
        steps: Steps,
        returning: Returning,
        opened: Callable[[str], None],
        config: CoordinatorConfig,
        ack: Callable[[Delivery], None],
        last_word: LastWord,
    ) -> None:
        self._parts, self._steps, self._returning = parts, steps, returning
        self._last_word = last_word
        self._opened, self._config, self._ack = opened, config, ack
        self._signed_word = SignedWord(parts, steps)
        self._kept = KeptModels(steps.states, parts.say, parts.models, parts.work.blobs, steps.queue, parts.clock)
        self._sites = frozenset(config.coordinator.sites)
        self._researchers = frozenset(config.coordinator.researchers)
        limits = config.limits
        self._bounds = Bounds(cases_max=limits.cases_max, weight_cap=limits.weight_cap, norm_factor=limits.norm_factor)
        self._unsaved: dict[str, Position] = {}
        self._started = parts.clock.monotonic()
        self._proved_at: dict[str, float] = {}
        self._checks = Allowances(parts.clock.monotonic, MOST_CHECKS, CHECKS_A_SECOND)
        self._check_bytes = Allowances(parts.clock.monotonic, CHECK_BYTES, CHECK_BYTES / floods.HOUR)
        self._ahead = Ahead()
        """Events of rounds that this coordinator has not come to: its journal is older than they are."""

    def handle_delivery(self, delivery: Delivery) -> None:
        """Take one message; whatever it is, it is acknowledged once what it led to is stored."""
        try:
            event = envelope.decode_event(delivery.body)
            envelope.check_origin(event, delivery.key, delivery.user, self._config.coordinator.consortium)
            self._parts.verifier.check_event(event, delivery.queue, self._parts.clock.now())
            self._take_event(event, delivery)
        except MalformedMessage as error:
            reason = str(error.reason)
            self._steps.tally.malformed_message(reason)
            self._set_aside(delivery, reason, with_bytes=not isinstance(error, UnboundedMessage))
        except KonsilError:
            raise  # fenced off, or ended while the disk is full: not the message's fault
        except Exception as error:
            if self._steps.complaints.count_messages(delivery.user or NOBODY, type(error).__name__):
                log.exception("a message could not be handled", queue=delivery.queue, error=type(error).__name__)
            self._set_aside(delivery, type(error).__name__)
        self._ack(delivery)

    def note_skipped(self, skipped: Skipped) -> None:
        """Messages that were not even read: their senders say too much. An outbox says its own again."""
        for sender, count in skipped.counts.items():
            self._steps.floods.count_messages(sender, floods.SKIPPED, count, self._parts.clock.now())
            if self._steps.complaints.count_messages(sender, floods.SKIPPED, count):
                log.warning("a sender says more than is read", sender=sender)
        for delivery in skipped.last.values():
            self._note_position(delivery)

    def _set_aside(self, delivery: Delivery, reason: str, *, with_bytes: bool = True) -> None:
        """Keep a message that cannot be handled, or only count it where its sender sends too many.

        Without its bytes only its digest is kept: what is beyond its bounds may be a site's free text.
        """
        steps, kept = self._steps, delivery.body[:KEPT_BYTES] if with_bytes else b""
        sender = delivery.user or NOBODY
        if steps.complaints.count_messages(sender, reason):
            log.warning("a message is set aside", queue=delivery.queue, reason=reason, sender=sender)
        if steps.floods.may_journal(sender, reason, len(kept), self._parts.clock.now()):
            what = {"bytes": kept, "sha256": sha256(delivery.body).digest()}
            steps.set_aside(NO_EXPERIMENT, reason, what, self._written_with(delivery))
        else:
            steps.tally.set_aside += 1
            self._note_position(delivery)

    def save_positions(self) -> None:
        """Store positions that no entry took along, and tell what is missed."""
        self._signed_word.tell_missing()
        if self._unsaved:
            self._parts.journal.note_written(Written({}, self._take_positions()))

    def put_back(self, positions: Mapping[str, Position]) -> None:
        """Positions that no entry took along after all."""
        self._unsaved = {**positions, **self._unsaved}

    def _take_positions(self) -> dict[str, Position]:
        taken, self._unsaved = self._unsaved, {}
        if self._ahead and UPLINK in taken:
            self._unsaved[UPLINK] = taken.pop(UPLINK)  # what is held must be read again after a restart
        return taken

    def _written_with(self, delivery: Delivery, seen: dict[str, bool] | None = None) -> Written:
        self._note_position(delivery)
        return Written(seen or {}, self._take_positions())

    def _note_position(self, delivery: Delivery) -> None:
        if delivery.offset is not None:
            self._unsaved[delivery.queue] = Position(delivery.offset, digest_of(delivery.body))

    def _take_event(self, event: Event, delivery: Delivery) -> None:
        if not event.known:
            self._unknown(event, delivery)
            return
        spec = KINDS[event.kind]
        if (spec.queue == UPLINK) != (delivery.queue == UPLINK) or (
            COORDINATOR in spec.senders and (event.kind != "nonce" and event.sender == COORDINATOR)
        ):
            raise MalformedMessage("unknown-kind", "a kind that does not come here")
        if spec.history:
            self._take_history(event, delivery)
        else:
            self._note_position(delivery)
            self._take_live(event)

    def _unknown(self, event: Event, delivery: Delivery) -> None:
        """A kind that only a newer version has: counted. It waits in its sender's outbox for a newer coordinator."""
        self._note_position(delivery)
        self._steps.tally.refused_events[Reason.UNKNOWN_KIND.value] += 1
        if self._steps.complaints.count_messages(event.sender, Reason.UNKNOWN_KIND):
            log.warning("a newer version says what this one does not know", sender=event.sender)

    def _is_known(self, event: Event) -> bool:
        senders = KINDS[event.kind].senders
        return ("site" in senders and event.sender in self._sites) or (
            "researcher" in senders and event.sender in self._researchers
        )

    def _take_live(self, event: Event) -> None:
        body = event.body
        if isinstance(body, kinds.Nonce):
            if event.sender == COORDINATOR:
                self._take_mark(event, body.nonce)
        elif not self._is_known(event):
            if self._steps.complaints.count_messages(event.sender, Reason.UNKNOWN_SITE):
                log.warning("a live message of a stranger", sender=event.sender)
        elif isinstance(body, kinds.Hello):
            self._returning.take_hello(event)
            self._steps.tally.site_versions[event.sender] = body.versions.get("konsil", "unknown")
            if body.head is not None:
                self._prove_heads(event.sender, body.head)
        elif isinstance(body, kinds.Echo):
            reply = kinds.EchoReply(nonce=body.nonce, time=self._parts.clock.now())
            self._parts.say.send_live("echo-reply", reply)
        elif isinstance(body, kinds.ExperimentCheck):
            self._pass_check_on(event, body)
        elif isinstance(body, kinds.ModelWanted):
            self._kept.send_model(event, body.round)
        elif isinstance(body, kinds.ChunksWanted):
            self._returning.send_chunks(event.experiment, body, event.sender)

    def _pass_check_on(self, event: Event, body: kinds.ExperimentCheck) -> None:
        """Have all sites look at an experiment file: within its sender's bounds, and never one that is read back."""
        if self._parts.gate.closed:
            return
        fits = len(event.raw) <= MOST_FILE_BYTES
        if not (fits and self._checks.take(event.sender) and self._check_bytes.take(event.sender, len(event.raw))):
            if self._steps.complaints.count_messages(event.sender, event.kind):
                log.warning("a researcher has more, or larger, files checked than are passed on", sender=event.sender)
            return
        checked = kinds.ExperimentChecked(experiment=body.experiment, researcher=event.sender, nonce=body.nonce)
        self._parts.say.send_live("experiment-checked", checked, experiment=event.experiment)

    def _prove_heads(self, site: str, size: int) -> None:
        """A site lacks the proof that the log follows from what it saw: to its inbox, once a second at most."""
        now, heads = self._parts.clock.monotonic(), self._parts.heads
        if heads is None or now < self._proved_at.get(site, -PROVE_EVERY) + PROVE_EVERY:
            return
        self._proved_at[site] = now
        for head, told in heads.tell_from(size):
            name, number, _opening = head.place
            self._parts.say.send_live("log-head", told, experiment=name, round_number=number, to=site)

    def _take_mark(self, event: Event, nonce: str) -> None:
        """A coordinator's mark: our own, one of an earlier term, or the word of one that took our place.

        Raises:
            NameTaken: this coordinator was fenced off. Sites refuse what it says since they heard the higher term.
        """
        mine = self._parts.journal.term
        if event.term > mine or (event.term == mine and not self._parts.gate.wrote_nonce(nonce)):
            raise NameTaken(
                f"a coordinator of term {event.term} has spoken, and this one has term {mine}: it ends",
                where=f"term {mine}",
                advice="Run only one coordinator of a consortium. If this is its only journal, it is an older copy:"
                " `konsil coordinator restore` gives a backup a term of its own, `konsil coordinator cut` this one",
            )
        self._opened(nonce)

    def _take_history(self, event: Event, delivery: Delivery) -> None:
        steps = self._steps
        identity = i.identify_event(event)
        facts = self._signed_word.read_facts(event)
        if facts:
            self._signed_word.check_time(event)
            if self._last_word.leaps(event, is_site=event.sender in self._sites):
                raise MalformedMessage(Reason.MALFORMED, "a place far above the last one that was heard")
        if self._signed_word.hear_contradiction(event, delivery, facts, lambda: self._written_with(delivery)):
            return
        settled = self._parts.journal.seen_settled(identity)
        known = self._is_known(event)
        if settled is not None:
            self._note_position(delivery)
            if facts and known and self._last_word.is_news(event):
                # A site that came out of a backup says it again, in its new chain.
                self._signed_word.hear_again(event)
                self._parts.journal.note_written(Written({}, {}, values=self._last_word.note_event(event)))
            if settled:
                self._parts.say.send_receipt(event.sender, event.id, event.experiment)
            else:
                self._parts.receiver.put_item(Nudge(event.experiment, event.sender))
            return
        if facts:
            self._signed_word.follow_chain(event)
            self._signed_word.check_answer(event)
        if known and self._catches_up(event.experiment) and self._is_ahead(event):
            self._note_position(delivery)
            held = self._ahead.hold_event(event.experiment, event.id, event.sender, delivery)
            if not held and steps.complaints.count_messages(event.sender, "ahead"):
                log.warning("too much of a sender is ahead of its round", sender=event.sender)
            return
        values = self._last_word.note_event(event) if facts and known else {}
        if event.kind == "leaving" and event.experiment == NO_EXPERIMENT:
            self._take_leaving(event, delivery, known, values)
            return
        start = event.kind == "experiment-start"
        given = i.Received.of_event(
            event,
            time=self._parts.clock.now(),
            known=known,
            admitted=tuple(sorted(self._sites)) if start else (),
            keep_cap=self._config.limits.keep_cap if start else None,
            bounds=self._bounds if start else NO_BOUNDS,
            full=start and self._has_enough(event.sender),
            file_check=check_file(event, self._parts.origins.find_origin) if start and known else None,
        )
        waits = event.kind == "weights-ready"
        written = replace(self._written_with(delivery, {identity: not waits}), facts=facts, values=values)
        steps.take_step(event.experiment, given, written)

    def _has_enough(self, researcher: str) -> bool:
        """Whether a researcher has as many open experiments as the operator lets them have, or has started as many in
        a day."""
        since, limits = self._parts.clock.now() - DAY, self._config.limits
        theirs = [state for state in self._steps.states.values() if state.researcher == researcher]
        open_, lately = sum(one.ended is None for one in theirs), sum(one.started > since for one in theirs)
        return open_ >= limits.open_per_researcher or lately >= limits.starts_per_day

    def _catches_up(self, experiment: str) -> bool:
        """Whether rounds may be behind what sites say: after a start, and as long as something is held.

        What lies on uplink comes before our mark; what has no receipt yet is said again after our hello.
        """
        early = self._parts.clock.monotonic() < self._started + CATCH_UP
        return early or self._parts.gate.closed or experiment in self._ahead

    def _is_ahead(self, event: Event) -> bool:
        """Whether an event speaks of a round that is still to come: a journal that was restored, or cut, is older.

        What lies on uplink before our mark was said to whoever wrote the journal's lost end. Refusing it would tell
        sites that their updates are not wanted, and they would wait for a round that they have long done.
        """
        state = self._steps.states.get(event.experiment)
        if state is None or state.ended is not None or event.sender not in state.members:
            return False
        if event.kind in OF_STATISTICS and not event.round:
            return state.awaits_statistics and state.round is None
        here = state.round.number if state.round is not None else state.completed
        return here < event.round <= state.experiment.rounds.count + 1  # behind the last round comes the evaluation

    def holds_back(self, experiment: str) -> bool:
        """Whether something waits for the experiment to come to a later round."""
        return experiment in self._ahead

    def take_held_back(self, experiment: str) -> None:
        """An experiment has changed: what was ahead of it may be its turn now."""
        for delivery in self._ahead.take_events(experiment):
            event = envelope.decode_event(delivery.body)
            if self._is_ahead(event):
                self._ahead.hold_event(experiment, event.id, event.sender, delivery)
            else:
                self._take_history(event, delivery)

    def _take_leaving(self, event: Event, delivery: Delivery, known: bool, values: Mapping[str, bytes]) -> None:
        """A site leaves as a whole: each running experiment that it takes part in is told."""
        steps = self._steps
        for name, state in sorted(steps.states.items()):
            member = state.members.get(event.sender)
            if state.ended is None and member is not None and member.standing is Standing.JOINED:
                steps.take_step(name, i.Received.of_event(event, time=self._parts.clock.now(), known=known))
        if steps.floods.may_journal(event.sender, event.kind, len(event.raw), self._parts.clock.now()):
            self._parts.journal.note_written(replace(self._written_with(delivery, {event.id: True}), values=values))
            self._parts.say.send_receipt(event.sender, event.id, event.experiment)
        else:
            self._note_position(delivery)
