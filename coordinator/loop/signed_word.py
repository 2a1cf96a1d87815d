"""What a sender's signed events say against it: two versions under one id, and its own chain broken or forked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import structlog

from coordinator.core import effects as e
from coordinator.loop.steps import Parts, Steps
from coordinator.record.journal import NOTHING, Written
from messages import envelope
from messages.bus.base import Delivery
from messages.envelope import Event
from messages.ground.errors import MalformedMessage
from messages.ground.naming import NO_EXPERIMENT
from messages.reasons import Reason
from messages.trust.chains import ChainBreak, Chains
from messages.trust.signatures import AFTER, digest_payload, split_event
from messages.trust.verifier import LATE

CLOCKS_DIFFER = 86400.0
"""Seconds by which a site's clock may be behind ours: less would cost a site with a wrong clock its rounds."""
STRANGE_ANSWER = "answers-unknown"
"""Why an answer to what was never said here is noted in the journal; it is used all the same."""
log = structlog.get_logger("coordinator")


class SignedWord:
    """Compares what is signed. Main loop's thread."""

    def __init__(self, parts: Parts, steps: Steps) -> None:
        self._parts, self._steps = parts, steps
        self._chains = Chains()

    def read_facts(self, event: Event) -> dict[str, bytes]:
        """What a signed event says, by its id; nothing of one without a signature."""
        signed = self._parts.verifier.register is not None and bool(split_event(event.raw)[1])
        return {event.id: bytes.fromhex(envelope.digest_facts(event))} if signed else {}

    def check_time(self, event: Event) -> None:
        """Refuse a signed event that is older than what it speaks of: a copy from an experiment that had the same id.

        Raises:
            MalformedMessage: out-of-time.
        """
        state, oldest = self._steps.states.get(event.experiment), float("-inf")
        if event.kind == "experiment-start":
            oldest = self._parts.clock.now() - LATE
        elif state is not None:
            oldest = state.started - CLOCKS_DIFFER
        if event.time < oldest:
            raise MalformedMessage(Reason.OUT_OF_TIME, "an event from before its experiment")

    def follow_chain(self, event: Event) -> None:
        """Note an event's place in its author's own chain."""
        place, now = (event.incarnation, event.seq), self._parts.clock.now()
        after = event.ext.get(AFTER)
        found = self._chains.note_event(
            event.sender, place, event.id, digest_payload(event.raw), None if after is None else str(after), now
        )
        if found is not None:
            self._tell_finding(found)

    def check_answer(self, event: Event) -> None:
        """Tell of an event that answers what this coordinator has not said: its author was shown something else."""
        openings = self._parts.openings
        named = None if openings is None else openings.find_stranger(event)
        if named is None:
            return
        sender, place = event.sender, {"kind": event.kind, "round": event.round}
        if self._steps.complaints.count_messages(sender, STRANGE_ANSWER):
            log.warning("an event answers what was not said here", sender=sender, answers=named[:16], **place)
        what = {"sender": sender, "event": event.id, "answers": named, **place}
        self._keep(sender, event.experiment, STRANGE_ANSWER, what, 0, NOTHING)

    def hear_again(self, event: Event) -> None:
        """Note an event whose facts are known, and that stands in a new place of its sender's chain."""
        after = event.ext.get(AFTER)
        digest = digest_payload(event.raw)
        self._chains.note_again(event.sender, event.id, digest, None if after is None else str(after))

    def tell_missing(self) -> None:
        """Tell of events that were held back; once a second."""
        for found in self._chains.list_missing(self._parts.clock.now()):
            self._tell_finding(found)

    def _tell_finding(self, found: ChainBreak) -> None:
        if self._steps.complaints.count_messages(found.sender, f"chain-{found.what}"):
            log.warning(
                f"the chain of a sender's events is broken: {found.what}",
                sender=found.sender,
                incarnation=found.incarnation,
                before=found.seq,
                digest=found.digest[:16],
            )
        what = {"sender": found.sender, "incarnation": found.incarnation, "seq": found.seq, "digest": found.digest}
        self._keep(found.sender, NO_EXPERIMENT, f"chain-{found.what}", what, 0, NOTHING)

    def hear_contradiction(
        self, event: Event, delivery: Delivery, facts: Mapping[str, bytes], written: Callable[[], Written]
    ) -> bool:
        """Whether its sender has signed another version of an event before: this one is kept, too, and is not used.

        Args:
            facts: as `read_facts` reads them.
            written: takes the positions that the journal's entry is to store.
        """
        first = self._parts.journal.facts_of(event.id) if facts else None
        if first is None or first == facts[event.id]:
            return False
        reason, steps = Reason.EQUIVOCATION, self._steps
        if steps.complaints.count_messages(event.sender, reason):
            log.error("a sender has signed two versions of one event", sender=event.sender, kind=event.kind)
        steps.tally.refused_events[reason.value] += 1
        what = {"bytes": delivery.body, "sha256": sha256(delivery.body).digest(), "event": event.id, "first": first}
        kept = self._keep(event.sender, event.experiment, reason.value, what, len(delivery.body), written())
        state = steps.states.get(event.experiment)
        told = reason if state is None else state.tellable_reason(reason, event.sender)
        self._parts.say.tell_refusal(e.Tell(event.sender, event.experiment, event.round, event.id, event.kind, told))
        if kept:
            self._parts.say.send_receipt(event.sender, event.id, event.experiment)
        return True

    def _keep(self, sender: str, experiment: str, reason: str, what: Any, size: int, written: Written) -> bool:
        """Journal it, or only count it where its sender fills the journal; whether it is journaled."""
        if self._steps.floods.may_journal(sender, reason, size, self._parts.clock.now()):
            self._steps.set_aside(experiment, reason, what, written)
            return True
        self._parts.journal.note_written(written)
        return False
