"""Before a site that signs speaks, it hears where it was: its state folder may be out of a backup, or new.

The coordinator tells it in answer to hello (`last-heard`). What a disk that went back in time would say again, in
another way, would be held against the site: so it goes on above all that was heard of it (docs/protocol.md, rule 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog

from messages.abilities import ANNOUNCING, WORDS_6, read_abilities
from messages.bus.base import Delivery
from messages.envelope import Event, event_id
from messages.ground.clock import Clock
from messages.kinds import LastHeard, Receipt
from messages.names import COORDINATOR
from messages.trust.chains import MOST_LIFT
from site_agent.core.jobs import Job, SaidBefore
from site_agent.disk.spool import Spool
from site_agent.loop.budgets import Budgets
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace

log = structlog.get_logger()
ASK_EVERY = 10.0
"""Seconds between two hellos while nothing answers."""
PATIENCE = 10.0
"""Seconds until a site that never heard of a coordinator which can tell it goes on without."""
MOST_KEPT_BACK = 16 * 2**20
"""Bytes that are kept back. Beyond them a stream stands still, and what came to the inbox is dropped: the coordinator
says it again after the next hello."""
ABILITIES = "coordinator-can"
"""Where the spool keeps what the coordinator's version can."""


class Orientation:
    """Owned by the main loop.

    Args:
        signs: whether the site has a key; who has none asks nothing.
    """

    def __init__(self, spool: Spool, voice: Outbox, site: str, clock: Clock, budgets: Budgets, *, signs: bool) -> None:
        self._budgets = budgets
        self._spool, self._voice, self._site, self._clock = spool, voice, site, clock
        self.awaited = signs
        """Whether the site waits for the answer."""
        self._heard = not signs
        """Whether the coordinator has said where the site was, or nobody asks."""
        self.said: dict[str, SaidBefore] = {}
        """By experiment, what the site said before its disk went back in time."""
        self._kept_back: list[Callable[[], None]] = []
        self.kept_bytes = 0
        self._pace = Pace(clock)
        self._began: float | None = None

    def go_on_asking(self) -> bool:
        """Ask, where it is time to; whether the site still has to wait."""
        if not self.awaited:
            return False
        now = self._clock.monotonic()
        self._began = now if self._began is None else self._began
        if now - self._began >= PATIENCE and WORDS_6 not in read_kept(self._spool):
            self.awaited = False
        elif self._pace.is_due("hello", ASK_EVERY):
            self._voice.send_hello()
        return self.awaited

    def keep_back(
        self, delivery: Delivery, event: Event | None, later: Callable[[], None], ack: Callable[[Delivery], None]
    ) -> bool:
        """Whether a delivery is to be handled later, once the site knows where it was, and acknowledged from here.

        Args:
            event: what it holds; None: nothing that is believed.
            later: handles it.
        """
        if not self.awaited:
            return False
        if event is not None:
            if event.sender != COORDINATOR or isinstance(event.body, Receipt):
                return False
            older = event.kind in ANNOUNCING and WORDS_6 not in read_abilities(event.ext)
            if isinstance(event.body, LastHeard) or older:
                self._heard = isinstance(event.body, LastHeard)
                self.awaited = False
                return False
        # The place in a stream of what holds no event is noted after those before it.
        in_stream, fits = delivery.offset is not None, self.kept_bytes + len(delivery.body) <= MOST_KEPT_BACK
        if in_stream or (fits and event is not None):
            self.kept_bytes += len(delivery.body)
            self._kept_back.append(later if fits else partial(_do_both, later, partial(ack, delivery)))
        if fits or not in_stream:
            ack(delivery)
        return True

    def list_said(self, jobs: Mapping[str, Job]) -> dict[str, SaidBefore]:
        """By experiment, what the site said before its disk went back in time.

        Where no coordinator says it, nobody knows whether the disk did. One that keeps secure rounds can say it, so one
        that does not is no such: the secure rounds that are open count as spoken for.
        """
        if self._heard:
            return self.said
        open_ = {name: job for name, job in jobs.items() if job.secure is not None}
        return {name: SaidBefore(job.round, job.opening, 0, False) for name, job in open_.items()} | self.said

    def release(self) -> None:
        """Handle what was kept back."""
        kept, self._kept_back = self._kept_back, []
        self.kept_bytes = 0
        for handle in kept:
            handle()

    def take_last_heard(self, heard: LastHeard) -> None:
        """Hold what was heard of the site against what its disk knows; inside a transaction."""
        spool, place = self._spool, (heard.incarnation, heard.seq)
        known = spool.before if heard.incarnation < spool.incarnation else spool.place
        if place <= known:
            return
        if heard.incarnation > spool.own_starts + MOST_LIFT:
            log.critical(
                "the coordinator says that this site was heard so far above its own count that it is not believed",
                heard=place,
                known=known,
                advice="somebody speaks with this site's key, or the coordinator's: tell the consortium's operator",
            )
            return
        spool.go_on_above(heard.incarnation)
        self._voice.go_on_from(heard.digest)
        now = self._clock.wall()
        for name, part in heard.parts.items():
            self.said[name] = SaidBefore(part.round, part.opening, part.attempt, part.reported)
            spool.note_seen(event_id(name, 0, "joined", self._site), now)
        self._budgets.take_restored(heard.private, now)
        log.warning(
            "this state folder is older than what was heard of the site: it goes on above that",
            heard=place,
            known=known,
            incarnation=spool.incarnation,
            advice="if nobody restored it, somebody else speaks with this site's key: tell the consortium's operator",
        )


def _do_both(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def read_kept(spool: Spool) -> frozenset[str]:
    """What the coordinator's version can, as it was heard last."""
    return frozenset((spool.get_kept(ABILITIES) or b"").decode().split())


def keep_abilities(spool: Spool, abilities: frozenset[str]) -> None:
    """Keep what the coordinator's version can; WorkFailed on a full disk."""
    spool.put_kept(ABILITIES, " ".join(sorted(abilities)).encode())
