"""The site as a witness of the coordinator's log: heads are checked, kept and cosigned; a fork ends its part.

Inside the main loop's transactions. A head of the log comes before each opening (`messages.log.witness` judges it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from messages.envelope import Event
from messages.experiment import Experiment
from messages.ground.clock import Clock
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import HeadWitnessed, LogHead
from messages.log.heads import cosign_head, origin_of, read_head
from messages.log.witness import HeadFinding, Seen, Shown, find_doubt, judge_head
from messages.names import COORDINATOR
from messages.reasons import Reason
from messages.trust.notes import read_note
from messages.trust.register import Register
from messages.trust.settings import Trust
from site_agent.core.effects import Say
from site_agent.core.steps import opening_of
from site_agent.disk.seen_log import load_seen, store_seen
from site_agent.disk.spool import Spool
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace

log = structlog.get_logger()
ASK_EVERY = 2.0
"""Seconds between two hellos that ask for a proof."""


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Who witnesses: consortium, site, and what it trusts; `register`: today's."""

    consortium: str
    site: str
    trust: Trust
    register: Callable[[], Register]


class Witness:
    """Owned by the main loop.

    Args:
        stand: None: the site has no key, believes what it is told, and cosigns nothing.
    """

    def __init__(self, stand: Standpoint | None, spool: Spool, voice: Outbox, clock: Clock) -> None:
        self._stand, self._spool, self._voice, self._clock = stand, spool, voice, clock
        self._pace = Pace(clock)

    @property
    def seen(self) -> Seen:
        """What was seen so far, as the spool has it."""
        return load_seen(self._spool)

    def as_plain(self) -> dict[str, Any] | None:
        """For the status; None where the site has no key."""
        if self._stand is None:
            return None
        seen = self.seen
        return {"size": seen.size, "forked": bool(seen.proof), "declared_forks": list(seen.forks), "gap": seen.gap}

    def hear_head(self, event: Event) -> HeadFinding:
        """A head of the log: judge it, keep it, and cosign one that follows."""
        body, stand = event.body, self._stand
        if stand is None or not isinstance(body, LogHead):
            return HeadFinding.UNUSABLE
        register, before = stand.register(), self.seen
        origin = origin_of(stand.consortium)
        shown = Shown(
            note=body.note,
            old_size=body.old_size,
            proof=tuple(body.proof),
            term=event.term,
            place=(event.experiment, event.round, body.opening) if body.opening else None,
            witnessed=body.witnessed,
            witness_proof=tuple(body.witness_proof),
            fork=body.fork,
            fork_proof=tuple(body.fork_proof),
        )
        now = max(event.time, self._clock.wall())  # a key that is revoked by now cosigns nothing, whatever time is told

        def keys_of(name: str) -> tuple[bytes, ...]:
            return register.keys_of(name, event.time if name == COORDINATOR else now)

        seen, finding = judge_head(before, shown, origin, stand.trust.operator, keys_of)
        if seen != before:
            store_seen(self._spool, seen)
        if finding in (HeadFinding.FOLLOWS, HeadFinding.DECLARED):
            self._cosign(stand, body.note, origin)
        if finding is HeadFinding.DECLARED:
            log.warning("the operator declared that the log goes on from an older state of itself", term=event.term)
        elif finding is HeadFinding.GAP:
            self.ask_for_proof()
        elif finding is HeadFinding.FORKED and not before.proof:
            log.critical("the coordinator's log was forked: both heads are kept as proof (konsil site heads)")
        elif finding is HeadFinding.UNUSABLE:
            log.warning("a head of the log cannot be used")
        return finding

    def _cosign(self, stand: Standpoint, note: bytes, origin: str) -> None:
        text = read_note(note).text
        head, now = read_head(read_note(note), origin), self._clock.wall()
        mark = cosign_head(text, stand.site, stand.trust.key, int(now))
        body = HeadWitnessed(size=head.size, root=head.root.hex(), cosignature=mark.key_id + mark.signature)
        # Said again after a restore it is another event: a cosignature has its time in it.
        attempt = f"{head.size}-{head.root.hex()[:16]}-{int(now)}"
        self._voice.say_event(Say("head-witnessed", NO_EXPERIMENT, 0, body, attempt), now)

    def ask_for_proof(self) -> None:
        """Ask for heads that are proven to follow from the newest one that was seen."""
        if self._pace.is_due("proof", ASK_EVERY):
            self._voice.send_hello(self.seen.size)

    @property
    def forked(self) -> bool:
        """Whether the log was seen to be forked, and no operator has declared it."""
        return self._stand is not None and bool(self.seen.proof)

    def find_obstacle(self, event: Event, file: dict[str, Any]) -> Reason | None:
        """Why a step that an event opens is not taken on, or not yet."""
        stand = self._stand
        if stand is None:
            return None
        seen = self.seen
        if seen.proof:
            return Reason.FORKED_LOG
        experiment, register = Experiment.model_validate(file), stand.register()
        others = tuple(one for one in experiment.sites if one != stand.site and register.keys_of(one, event.time))
        place = (event.experiment, event.round, opening_of(event))
        required, least = register.signatures == "required", experiment.quorum.least_sites
        quorum = len(experiment.sites) if least == "all" else least
        if not find_doubt(seen, place, others, quorum, required=required):
            return None
        self.ask_for_proof()
        return Reason.UNPROVEN_LOG
