"""From what the coordinator shows of the others to what a site acts on: events checked one by one, then the exchange,
the context, the consents. Nothing here is believed of the coordinator that a peer could have signed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from messages import kinds
from messages.envelope import Event
from messages.ground.clock import Clock
from messages.ground.errors import MalformedMessage
from messages.kinds import Body
from messages.names import UPLINK
from messages.reasons import Reason
from messages.secure.context import Context, Exchange, make_context, make_exchange
from messages.secure.pooled import name_candidates
from messages.secure.rules import threshold_of
from messages.secure.said import read_consent, read_member, read_said
from messages.secure.site_rules import Consent
from messages.trust.verifier import Verifier
from site_agent.core.jobs import Job, event_of, experiment_of
from site_agent.core.secure.heard import start_of
from site_agent.core.secure.peers import list_lapsed

log = structlog.get_logger()
Asked = TypeVar("Asked", bound=Body)


class NotDone(Exception):
    """What is asked for is not done, and why: a code, and the site's own words for its log."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason, self.words = reason, words


def body_of(raw: bytes | None, kind: type[Asked]) -> Asked:
    """The body of an event that the job keeps; NotDone where it is not there: the site missed a step."""
    body = None if raw is None else event_of(raw).body
    if not isinstance(body, kind):
        raise NotDone(Reason.ABSENT, f"{kind.__name__} was not heard")
    return body


@dataclass(frozen=True, slots=True)
class Believed:
    """A roster: the exchange that follows from it, and whose event in it is well signed."""

    exchange: Exchange
    verified: frozenset[str]


class Believing:
    """Reads what others said. Any thread."""

    def __init__(self, consortium: str, verifier: Verifier, clock: Clock) -> None:
        self._consortium, self._verifier, self._clock = consortium, verifier, clock

    def read_roster(self, job: Job) -> Believed:
        """The roster that the job was shown, with the model and the threshold that this site itself knows.

        Raises:
            NotDone: it holds what is no site's keys for this try.
        """
        part = job.secure
        assert part is not None  # noqa: S101 (for mypy: who reads a roster has a part in the round)
        start = start_of(event_of(part.start))
        assert start is not None  # noqa: S101 (as above: it opened the try)
        events = self._read_said(job, body_of(part.roster, kinds.SecureRoster).keys, "secure-keys", Reason.BAD_ROSTER)
        verified = frozenset(event.sender for event in events if self._is_signed(event))
        try:
            members = [read_member(event) for event in events]
        except MalformedMessage as error:
            raise NotDone(Reason.BAD_ROSTER, error.what) from None
        exchange = make_exchange(
            experiment=job.digest,
            model=name_models(event_of(part.start)),
            round_number=job.round,
            attempt=part.tried,
            threshold=threshold_of(len(members), start.threshold),
            roster=members,
        )
        return Believed(exchange, verified)

    def tell_lapsed(self, pinned: Collection[str]) -> str:
        """Words on pinned peers whose keys count no more, for the log; empty where there are none."""
        register = self._verifier.register
        return "" if register is None else "; ".join(list_lapsed(register, pinned, self._clock.wall()))

    def read_context(self, job: Job, exchange: Exchange) -> Context:
        """What masks are derived under; NotDone where a weight is of no site of the roster."""
        part = job.secure
        weights = dict(body_of(None if part is None else part.masking, kinds.SecureMasking).weights)
        if not weights.keys() <= exchange.members.keys():
            raise NotDone(Reason.OTHER_CONTEXT, "a weight is of a site outside the roster")
        return make_context(exchange, weights)

    def read_consents(self, job: Job, body: kinds.SecureUnmasking) -> list[Consent]:
        """The consents that are well signed; the others do not count."""
        events = self._read_said(job, body.consents, "secure-consent", Reason.CONSENT_MISSING)
        return [read_consent(event) for event in events if self._is_signed(event)]

    def _read_said(self, job: Job, said: Iterable[bytes], kind: str, reason: Reason) -> list[Event]:
        part = job.secure
        tried = None if part is None else part.tried
        try:
            events = read_said(said)
        except MalformedMessage as error:
            raise NotDone(reason, error.what) from None
        for event in events:
            place = (event.kind, event.consortium, event.experiment, event.round, getattr(event.body, "tried", None))
            if place != (kind, self._consortium, job.experiment, job.round, tried):
                raise NotDone(reason, f"an event of {event.sender} that is of something else")
        return events

    def _is_signed(self, event: Event) -> bool:
        try:
            self._verifier.check_enclosed(event, UPLINK, self._clock.wall(), "site")
        except MalformedMessage as error:
            log.warning("a peer's word is not well signed", peer=event.sender, reason=error.reason)
            return False
        return self._verifier.find_signer(event) is not None


def name_models(start: Event) -> str:
    """The digest that stands for the models which a round or an evaluation is of."""
    body = start.body
    if isinstance(body, kinds.EvaluationStart):
        return name_candidates(body.digests())
    assert isinstance(body, kinds.RoundStart)  # noqa: S101 (for mypy: the two open tries)
    return body.model_digest


def find_own_weight(job: Job, context: Context, site: str) -> int:
    """What the site's difference is multiplied by, from what it announced itself. Whether a cap may have made it less
    says `messages.secure.site_rules.judge_masking`, which sees all weights. Scores are multiplied by nothing."""
    plan, counts = experiment_of(job).plan, job.counts
    assert counts is not None  # noqa: S101 (for mypy: who takes part has joined)
    if job.start is not None and isinstance(event_of(job.start).body, kinds.EvaluationStart):
        return context.weight_of.get(site, 1)
    return 1 if plan.weight_by == "equal" else max(1, counts.train if job.announced is None else job.announced)
