"""What must hold while a schedule runs; and its trace and story. Each violation is one sentence.

The trace is a digest of all that happened, in order: turns, deliveries, publishes, decisions, writes. The story is the
part of it that a person wants to read, kept only where it was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from simulation_plan import COORDINATOR, Schedule
from simulation_secure import SecrecyWatch

from messages import codec
from messages.ground.virtual.clock import VirtualClock
from site_agent.training.protocol import Train

MOST_SENT = 4000
"""Messages of one party in a schedule, signs of life apart; a calm one takes some dozens."""
LIVE = frozenset({"alive", "progress", "nonce", "hello", "coordinator-hello", "standing"})
"""Kinds that are said by time alone, or in answer to those."""
QUIET_KINDS = LIVE | {"receipt", "journal-entry"}
LOOKED_AFTER = 5.0
"""Seconds from an operator's pause on in which a request may still be under way."""


class Watch:
    """Hears of everything.

    Args:
        settled: whether the coordinator's journal says of an event that it is settled; None: it is not up.
        kept: whether the update of a site and round is durable at the coordinator; None: nobody needs it any more.
    """

    def __init__(
        self,
        schedule: Schedule,
        clock: VirtualClock,
        settled: Callable[[str], bool | None],
        kept: Callable[[str], bool | None],
        *,
        tell: bool = False,
    ) -> None:
        self._schedule, self._clock, self._settled, self._kept = schedule, clock, settled, kept
        self.violations: list[str] = []
        self.story: list[str] | None = [] if tell else None
        self.sent: Counter[str] = Counter()
        self.models: dict[int, set[str]] = {}
        """Round → digests of the models from which sites trained it."""
        self.paused: dict[str, float] = {}
        """Site → since when its operator has paused it."""
        self.quiet = False
        """Nothing is to be said any more but signs of life."""
        self.rubbish = False
        self._trace = sha256()
        self._raw: dict[str, bytes] = {}
        self._seqs: dict[tuple[str, int], dict[int, str]] = {}
        self._term = 0
        self.starts = 0
        """Of the coordinator."""
        self._lives: dict[int, int] = {}
        """Term → which start of the coordinator it is of."""
        self._secrecy = SecrecyWatch(self.fail)

    @property
    def trace(self) -> str:
        """The digest so far; the turns' own is part of it."""
        whole = self._trace.copy()
        whole.update(self._clock.trace.encode())
        return whole.hexdigest()

    def note(self, *what: object) -> None:
        """Something happened."""
        self._trace.update(f"{self._clock.monotonic()!r} {what!r}\n".encode())

    def tell(self, text: str) -> None:
        """The same, for the story."""
        self.note(text)
        if self.story is not None:
            self.story.append(f"{self._clock.monotonic() - 86400.0:10.2f} s  {text}")

    def fail(self, what: str) -> None:
        """Something does not hold; said once."""
        if what not in self.violations:
            self.violations.append(what)
            self.tell(f"VIOLATED: {what}")

    def note_publish(self, user: str, key: str, body: bytes) -> None:
        """A message is stored by the broker."""
        self.note("published", user, key, sha256(body).hexdigest()[:16])
        if self.rubbish:
            return
        kind = key.partition(".")[0]
        if kind not in LIVE:
            self.sent[user] += 1
            if self.sent[user] > MOST_SENT:
                self.fail(f"{user} sends without bound: {kind}")
        self._note_quiet(user, kind)
        if kind.endswith("-chunk") or kind == "journal-entry":
            return
        payload = codec.unpack(codec.unpack(body)[0])
        if user == COORDINATOR:
            self._note_coordinator(payload)
        elif user in self._schedule.sites and payload["seq"]:
            self._note_history(user, payload, body)

    def _note_quiet(self, user: str, kind: str) -> None:
        if self.quiet and kind not in QUIET_KINDS:
            self.fail(f"long after the end {user} still says {kind}")

    def _note_coordinator(self, payload: dict[str, Any]) -> None:
        if payload["term"] < self._term:
            self.fail(f"a term goes back: {payload['term']} after {self._term}")
        self._term = payload["term"]
        if self._lives.setdefault(self._term, self.starts) != self.starts:
            self.fail(f"two starts of the coordinator have term {self._term}")
        if payload["kind"] == "receipt":
            for event in [one for one in payload["body"]["events"] if one in self._raw]:
                if self._settled(event) is False:
                    self.fail(f"a receipt for what the journal does not hold ({event})")
                if self._kept(event) is False:
                    self.fail("a receipt for an update that a power cut would lose")
        elif payload["kind"] not in LIVE and payload["seq"]:
            self.tell(f"coordinator says {payload['kind']} {payload['round'] or ''}".rstrip())

    def _note_history(self, site: str, payload: dict[str, Any], body: bytes) -> None:
        identity, incarnation, number = payload["id"], payload["incarnation"], payload["seq"]
        known = self._raw.setdefault(identity, body)
        if known != body:
            self.fail(f"{site} says {payload['kind']} of round {payload['round']} twice in other words")
        elif known is not body:
            return
        held = self._seqs.setdefault((site, incarnation), {})
        if held.setdefault(number, identity) != identity:
            self.fail(f"{site} gives number {number} of incarnation {incarnation} twice")
        self.tell(f"{site} says {payload['kind']} {payload['round'] or ''}".rstrip())
        if self._schedule.masks:
            self._secrecy.note_said(site, payload)
        if payload["kind"] == "joined" and site in self._schedule.strict:
            self.fail(f"{site} joins against its policy")

    def note_training(self, site: str, request: Train, model: str) -> None:
        """A round's training begins."""
        self.models.setdefault(request.round, set()).add(model)
        self.tell(f"{site} trains round {request.round}, attempt {request.attempt}")
        if site in self._schedule.strict:
            self.fail(f"{site} trains against its policy")
        since = self.paused.get(site)
        if since is not None and self._clock.monotonic() > since + LOOKED_AFTER:
            self.fail(f"{site} begins round {request.round} while its operator has paused it")

    def judge_numbers(self) -> None:
        """At the end: each site's numbers have no gap within an incarnation."""
        for (site, incarnation), held in sorted(self._seqs.items()):
            if sorted(held) != list(range(1, len(held) + 1)):
                self.fail(f"numbers of {site}, incarnation {incarnation}, have gaps: {sorted(held)}")
