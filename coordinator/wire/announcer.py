"""Writes and sends the coordinator's own events; one event said again keeps its bytes within a term."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from coordinator.core.announce import Announcement
from coordinator.core.effects import Expect, Mail, Tell
from coordinator.core.steps.table import STEPS
from coordinator.wire.openings import SaidOpenings
from coordinator.wire.outgoing import Events
from messages import kinds
from messages.envelope import Author, Event
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import Body
from messages.tensors.signed_chunks import CHUNKS, SIGNED
from messages.trust.signatures import digest_payload

REMEMBERED = 512
"""Announcements whose bytes are kept, to be said again."""


class Announcer:
    """The coordinator's voice.

    Args:
        author: consortium, name and term.
        send: the thread that publishes.
        now: the coordinator's clock.
        signs_chunks: whether the chunks of an experiment's models are signed: what opens a step says so.
        openings: notes what opens a step; None: nobody's answer is held against it.
    """

    def __init__(
        self,
        author: Author,
        send: Events,
        now: Callable[[], float],
        openings: SaidOpenings | None = None,
        signs_chunks: Callable[[str], bool] = lambda _experiment: False,
    ) -> None:
        self._author, self._events, self._now = author, send, now
        self._openings, self._signs_chunks = openings, signs_chunks
        self._written: OrderedDict[tuple[str, str, int, int | str], Event] = OrderedDict()
        self._seq = 0
        self._last: str | None = None
        """Digest of the last history event of this term."""
        self._live = count(1)

    @property
    def public_key(self) -> bytes | None:
        """What its signatures are checked by; None: it does not sign."""
        return None if self._author.key is None else self._author.key.public

    def recall_event(self, what: Announcement) -> Event:
        """The event of an announcement, to be told to one party. Whoever checks our chain misses one that it never
        heard, so that all hear one that is new."""
        before = self._seq
        event = self.write_event(what)
        if self._author.key is not None and self._seq > before:
            self._events.send_event(event.key, event.raw)
        return event

    def write_event(self, what: Announcement) -> Event:
        """The event of an announcement: written once a term, with a gapless sequence number."""
        place = (what.kind, what.experiment, what.round, what.attempt)
        known = self._written.get(place)
        if known is not None and (known.body == what.body or self._author.key is not None):
            # Signed once, it is not said in another way: two versions under one id would be held against us.
            self._written.move_to_end(place)
            return known
        self._seq += 1
        opens = any(row.opens == what.kind for row in STEPS.values())
        event = self._author.write_event(
            what.kind,
            what.body,
            time=self._now(),
            experiment=what.experiment,
            round_number=what.round,
            attempt=what.attempt,
            seq=self._seq,
            after=self._last,
            more={CHUNKS: SIGNED} if opens and self._signs_chunks(what.experiment) else None,
        )
        self._last = digest_payload(event.raw)
        if self._openings is not None and opens:
            self._openings.note_said(event)
        self._written[place] = event
        while len(self._written) > REMEMBERED:
            self._written.popitem(last=False)
        return event

    def announce_to_all(self, what: Announcement) -> None:
        """Send to all."""
        event = self.write_event(what)
        self._events.send_event(event.key, event.raw)

    def send_live(
        self,
        kind: str,
        body: Body,
        *,
        experiment: str = NO_EXPERIMENT,
        round_number: int = 0,
        to: str | None = None,
    ) -> None:
        """Send a live event, to all or to one party's inbox."""
        event = self._author.write_event(
            kind,
            body,
            time=self._now(),
            experiment=experiment,
            round_number=round_number,
            attempt=f"{self._author.term}-{next(self._live)}",
            to=to,
        )
        self._events.send_event(event.key if to is None else event.key_to(to), event.raw)

    def send_receipt(self, party: str, identity: str, experiment: str = NO_EXPERIMENT) -> None:
        """Tell a party that its event is stored."""
        self.send_live("receipt", kinds.Receipt(events=[identity]), experiment=experiment, to=party)

    def tell_refusal(self, effect: Tell) -> None:
        """Tell a party that its event is not used."""
        event = self._author.write_event(
            "refused",
            kinds.Refused(event=effect.event, kind=effect.kind, reason=effect.reason),
            time=self._now(),
            experiment=effect.experiment,
            round_number=effect.round,
            attempt=effect.event,
            to=effect.party,
        )
        self._events.send_event(event.key_to(effect.party), event.raw)

    def send_mail(self, effect: Mail) -> None:
        """Pass on to a party what its peers have sealed for it."""
        event = self._author.write_event(
            "secure-mail",
            effect.body,
            time=self._now(),
            experiment=effect.experiment,
            round_number=effect.round,
            attempt=effect.attempt,
            to=effect.site,
        )
        self._events.send_event(event.key_to(effect.site), event.raw)

    def ask_for_chunks(self, effect: Expect, chunks: list[int] | None) -> None:
        """Ask a site for chunks of its update."""
        body = kinds.ChunksWanted(round=effect.round, attempt=effect.attempt, seal=effect.seal, chunks=chunks)
        self.send_live("chunks-wanted", body, experiment=effect.experiment, round_number=effect.round, to=effect.site)
