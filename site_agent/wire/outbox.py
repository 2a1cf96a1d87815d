"""What the agent says: history events through the outbox until they are receipted, live ones once and never again.

The outbox lies on the disk, and stays there: the bus is given so many of its events as have no confirm yet, and the
next ones are read as it confirms. So a broker that is away, or slow, costs disk and no memory.
"""

from __future__ import annotations

import platform
import threading
from collections import deque
from dataclasses import dataclass, replace
from importlib.metadata import version

import structlog

from messages.bus.base import Bus, Confirm
from messages.envelope import Author, decode_stored, event_id
from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import Body, Hello
from messages.names import COORDINATOR, RoutingKey
from messages.trust import signatures
from messages.trust.keys import SigningKey
from messages.trust.register import Register
from messages.trust.signatures import name_key
from site_agent.core.effects import Say
from site_agent.disk.lineage import DATA, POLICY
from site_agent.disk.spool import Spool, Waiting

log = structlog.get_logger()

AGAIN_AFTER = 30.0
"""Seconds without a receipt until an event is published again (docs/protocol.md, rule 2)."""
TOGETHER = 1.0
"""Seconds within which events were published that are published again together."""
MOST_HANDED = 256
"""Events of the outbox that the bus holds unconfirmed: fewer than it takes, so that the main loop does not wait."""
MOST_HANDED_BYTES = 512 * 2**10
"""Their bytes: half of what a bus takes of events on the slowest line; a single one may be of any size."""
MOST_LIVE = 64
"""Live messages that the bus holds unconfirmed; more are dropped."""
LAST = "last-event"
"""Where the spool keeps the digest of the site's last history event: its own chain goes on through every start."""
PAGE = 32
"""Events that are read from the disk at a time."""


@dataclass
class _Span:
    """Places in the outbox, `after` left out, that were published from `began` to `at` (monotonic)."""

    after: int
    until: int
    began: float
    at: float


class _Lane:
    """What was published, by time, until it is due again. Places only grow here, so that spans join."""

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque()

    def note(self, after: int, until: int, now: float) -> None:
        """The event at `until` was published, and nothing lies between it and `after`."""
        last = self._spans[-1] if self._spans else None
        if last is not None and last.until == after and now - last.began < TOGETHER:
            last.until, last.at = until, now
        else:
            self._spans.append(_Span(after, until, now, now))

    def due(self, now: float) -> list[_Span]:
        """What is to be published again."""
        found = []
        while self._spans and now - self._spans[0].at >= AGAIN_AFTER:
            found.append(self._spans.popleft())
        return found


class Outbox:
    """One running agent's voice. Used by the main loop; `send_live` by any thread."""

    def __init__(
        self, bus: Bus, spool: Spool, consortium: str, site: str, clock: Clock, key: SigningKey | None = None
    ) -> None:
        self._bus, self._spool, self._clock = bus, spool, clock
        self._author = Author(consortium, site, spool.incarnation, key=key)
        self._handed: dict[int, tuple[Confirm, int]] = {}
        """Place in the outbox → its confirm and bytes, of what the bus may still hold."""
        self._handed_bytes = 0
        self._greets = False
        self._lacks: int | None = None
        self._lock = threading.Lock()
        self._live = 0
        self._flying: deque[Confirm] = deque()
        self.dropped = 0
        """Live messages that were dropped, because the bus had too many."""
        self.connected = True
        self.silenced = False
        """Whether the operator's register has another key for this site: nobody would believe what it says."""
        self.behind = False
        """Whether the bus took not all that is to be published: the next calls go on."""
        self._say_all()
        if key is not None:
            self._sign_waiting(name_key(key.fingerprint))

    def _sign_waiting(self, key_name: str) -> None:
        """Sign what was written before the site had this key, and waits for its receipt still: the same facts, said
        now."""
        anew: dict[str, str] = {}
        """Digest of an event as it was → as it is now: the site's own chain goes on through them."""
        for waiting in self._spool.list_waiting():
            event = decode_stored(waiting.raw)
            if event.ext.get(signatures.KEY) == key_name:
                continue
            before, answers = event.ext.get(signatures.AFTER), event.ext.get(signatures.ANSWERS)
            told = replace(self._author, incarnation=event.incarnation).write_event(
                event.kind,
                event.body,
                time=self._clock.wall(),
                experiment=event.experiment,
                round_number=event.round,
                attempt=event.attempt,
                seq=event.seq,
                after=None if before is None else anew.get(str(before), str(before)),
                answers=None if answers is None else str(answers),
                more={key: str(event.ext[key]) for key in (POLICY, DATA) if key in event.ext},
            )
            anew[signatures.digest_payload(event.raw)] = digest = signatures.digest_payload(told.raw)
            with self._spool.transaction():
                self._spool.replace_event(waiting, told.raw)
                if self._spool.get_kept(LAST) == bytes.fromhex(signatures.digest_payload(event.raw)):
                    self._spool.put_kept(LAST, bytes.fromhex(digest))

    def go_on_from(self, digest: str | None) -> None:
        """Speak as the spool's incarnation from now on, in a chain that goes on behind another event of ours; inside a
        transaction."""
        self._author = replace(self._author, incarnation=self._spool.incarnation)
        if digest is not None:
            self._spool.put_kept(LAST, bytes.fromhex(digest))

    def note_register(self, register: Register) -> None:
        """Speak only as long as the newest register has our key for this site."""
        key, site = self._author.key, self._author.name
        before, self.silenced = (
            self.silenced,
            key is not None and key.public not in register.keys_of(site, self._clock.wall()),
        )
        if self.silenced and not before:
            log.critical(
                "the operator's register does not have this site's key any more: the site says nothing",
                serial=register.serial,
                advice="ask the operator for a new kit, and start the agent with its key",
            )

    def _say_all(self) -> None:
        self._reached = 0
        """Places up to here were published once."""
        self._once, self._more = _Lane(), _Lane()
        self._again: deque[_Span] = deque()
        """Due to be published again, and not all handed over yet."""

    def say_event(self, effect: Say, now: float, answers: bytes | None = None) -> None:
        """Write a history event to the outbox; inside the transaction that caused it. Said once, it stays as it is.

        Args:
            answers: the event that it answers, as it came.
        """
        identity = event_id(effect.experiment, effect.round, effect.kind, self._author.name, effect.attempt)
        if not self._spool.note_seen(identity, now):
            return
        signs = self._author.key is not None
        last = self._spool.get_kept(LAST) if signs else None
        event = self._author.write_event(
            effect.kind,
            effect.body,
            time=now,
            experiment=effect.experiment,
            round_number=effect.round,
            attempt=effect.attempt,
            seq=self._spool.next_seq(),
            after=None if last is None else last.hex(),
            answers=signatures.digest_payload(answers) if signs and answers is not None else None,
            more=effect.more,
        )
        if signs:
            self._spool.put_kept(LAST, bytes.fromhex(signatures.digest_payload(event.raw)))
        self._spool.post_event(event, effect.attempt if isinstance(effect.attempt, int) else 1)

    def publish_waiting(self, *, everything: bool = False) -> None:
        """Publish what is new in the outbox or was not receipted for long; `everything`: all of it (reconnected).

        As much of it as the bus may hold; the rest with the next calls, in order.
        """
        if not self.connected or self.silenced:
            return
        if everything:
            self._say_all()
        self.behind = True
        now = self._clock.monotonic()
        self._again.extend((*self._more.due(now), *self._once.due(now)))
        while self._again:
            span = self._again[0]
            span.after, done = self._hand(span.after, span.until, self._more, now)
            if not done:
                return
            self._again.popleft()
        self._reached, done = self._hand(self._reached, None, self._once, now)
        if done and self._greets:
            self._greets = not self._greet()
        self.behind = self._greets or not done

    def _hand(self, after: int, until: int | None, lane: _Lane, now: float) -> tuple[int, bool]:
        """Hand over what lies between two places; returns the place reached, and whether that is all of it."""
        while page := self._spool.list_waiting(after, until, PAGE):
            for event in page:
                held = self._handed.get(event.number)
                if held is None or held[0].done:  # else the bus has it still, and sends it by itself
                    if not self._has_room(len(event.raw)):
                        return after, False
                    self._hand_over(event)
                lane.note(after, event.number, now)
                after = event.number
        return after, True

    def _hand_over(self, event: Waiting) -> None:
        confirm = self._send_raw(event.key, event.raw)
        before = self._handed.pop(event.number, None)
        self._handed_bytes -= 0 if before is None else before[1]
        if confirm is not None:
            self._handed[event.number] = (confirm, len(event.raw))
            self._handed_bytes += len(event.raw)

    def _has_room(self, size: int) -> bool:
        def full() -> bool:
            if not self._handed:
                return False
            return len(self._handed) >= MOST_HANDED or self._handed_bytes + size > MOST_HANDED_BYTES

        if full():
            self._handed = {place: one for place, one in self._handed.items() if not one[0].done}
            self._handed_bytes = sum(length for _confirm, length in self._handed.values())
        return not full()

    def take_receipt(self, identity: str, now: float) -> Waiting | None:
        """The coordinator has stored an event of ours."""
        return self._spool.take_receipted(identity, now)

    def send_live(
        self,
        kind: str,
        body: Body,
        *,
        experiment: str = NO_EXPERIMENT,
        round_number: int = 0,
        addressee: str | None = None,
    ) -> None:
        """Publish something that may be lost; dropped while there is no connection, or too much waits for it."""
        self._say_live(kind, body, experiment, round_number, addressee)

    def _say_live(
        self, kind: str, body: Body, experiment: str = NO_EXPERIMENT, round_number: int = 0, to: str | None = None
    ) -> bool:
        if not self.connected or self.silenced:
            return False
        with self._lock:
            while self._flying and self._flying[0].done:
                self._flying.popleft()
            if len(self._flying) >= MOST_LIVE:
                self.dropped += 1
                return False
            self._live += 1
            number = self._live
        event = self._author.write_event(
            kind,
            body,
            time=self._clock.wall(),
            experiment=experiment,
            round_number=round_number,
            attempt=f"{self._author.incarnation}.{number}.{round(1e9 * self._clock.wall())}",
            to=to,
        )
        confirm = self._send_raw(str(RoutingKey(kind, event.sender, experiment, to)), event.raw)
        if confirm is not None:
            with self._lock:
                self._flying.append(confirm)
        return True

    def send_hello(self, head: int | None = None) -> None:
        """Say that the site is online, after everything that still waits for its receipt.

        Args:
            head: size of the log up to which the site has seen it, where it lacks a proof of what follows.
        """
        self._greets = True
        self._lacks = head if head is not None else self._lacks
        self.publish_waiting(everything=True)

    def _greet(self) -> bool:
        versions = {"konsil": version("konsil"), "python": platform.python_version()}
        head, self._lacks = self._lacks, None
        return self._say_live("hello", Hello(versions=versions, head=head))

    def ask_coordinator(self, kind: str, body: Body, experiment: str) -> None:
        """Something for the coordinator's inbox."""
        self.send_live(kind, body, experiment=experiment, addressee=COORDINATOR)

    def _send_raw(self, key: str, raw: bytes) -> Confirm | None:
        try:
            return self._bus.publish(key, raw)
        except KonsilError as error:
            log.warning("cannot publish", key=key, error=str(error))
            return None
