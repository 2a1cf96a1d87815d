"""What a site has bound itself to in a secure round, and therefore refuses, whatever the coordinator says. Pure.

`SecureRecord` is all that these rules know of the past. The site persists what `note_*` returns in the transaction in
which it decides, before anything leaves. Each `judge_*` is total: it returns a reason to refuse, or None. A step that
is asked for again in the same words is no second step: the answer is the same bytes.

| rule | a second, different … is refused |
|---|---|
| opening | try once an update was masked, in the same round; any earlier round or try |
| roster | roster in a try |
| masking | context in a round |
| closing | consent in a round |
| unmasking | reveal in a round |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from messages.reasons import Reason
from messages.secure.context import Context, Exchange
from messages.secure.keys import is_usable_point
from messages.secure.rules import least_in_sum, margin_of


@dataclass(frozen=True, slots=True)
class SecureRecord:
    """What a site did in the newest secure round of an experiment. Plain fields, to be persisted as they are.

    Attributes:
        round: its number; 0: none yet.
        attempt: the newest try.
        seal_key, mask_key: the public keys (32 bytes) that the site announced in that try.
        exchange: digest (hex) of the roster that it dealt shares to.
        context: digest (hex) of what it masked an update under; set before the first masked byte exists.
        consented: digest (hex, `Context.close_over`) of what it consented to.
        revealed: the same of what it revealed shares for.
    """

    round: int = 0
    attempt: int = 0
    seal_key: bytes = b""
    mask_key: bytes = b""
    exchange: str = ""
    context: str = ""
    consented: str = ""
    revealed: str = ""


@dataclass(frozen=True, slots=True)
class PeerFloors:
    """What a site's policy asks of those that it adds its update to.

    Attributes:
        least_sites: updates in a sum that must not be of colluding sites (policy: `secure_least_sites`).
        colluding: how many sites it allows for (policy: `secure_colluding`).
        pinned: fingerprints of peers that count; None: every site of the operator's register counts. Peers that are
            not pinned are taken to collude, since anybody may have invented them.
        quorum_sites: the experiment file's least sites of a round.
    """

    least_sites: int = 3
    colluding: int = 0
    pinned: frozenset[str] | None = None
    quorum_sites: int = 1


@dataclass(frozen=True, slots=True)
class Consent:
    """One site's consent, once its signature was verified under the key `signer` (fingerprint). Digests in hex."""

    site: str
    signer: str
    context: str
    closing: str


def judge_opening(record: SecureRecord, round_number: int, attempt: int) -> Reason | None:
    """Whether to announce keys for a try: `wrong-round`, `older-attempt`, `asked-twice`."""
    if round_number < record.round:
        return Reason.WRONG_ROUND
    if round_number == record.round and attempt < record.attempt:
        return Reason.OLDER_ATTEMPT
    if round_number == record.round and attempt > record.attempt and record.context:
        return Reason.ASKED_TWICE
    return None


def note_opening(
    record: SecureRecord, round_number: int, attempt: int, seal_key: bytes, mask_key: bytes
) -> SecureRecord:
    """The site announces these keys."""
    if (round_number, attempt) == (record.round, record.attempt):
        return record
    bound = record if round_number == record.round else SecureRecord()
    return replace(bound, round=round_number, attempt=attempt, seal_key=seal_key, mask_key=mask_key, exchange="")


def judge_roster(
    record: SecureRecord, exchange: Exchange, own: str, verified: Collection[str], floors: PeerFloors
) -> Reason | None:
    """Whether to deal shares to a roster.

    Args:
        exchange: made from the events in `secure-roster` and what the site itself knows of round and experiment.
        verified: names whose event bears a good signature of `Member.signer`.

    Returns:
        `wrong-round`, `asked-twice`, `bad-signature`, `bad-roster` (a name or key twice, no key, own keys other than
        announced), `too-few-peers`, `privacy-below-floor` (2t - n does not exceed those who may collude), or None.
    """
    if (exchange.round, exchange.attempt) != (record.round, record.attempt):
        return Reason.WRONG_ROUND
    if record.exchange not in ("", exchange.digest.hex()):
        return Reason.ASKED_TWICE
    roster = exchange.roster
    if not all(one.name in verified for one in roster):
        return Reason.BAD_SIGNATURE
    points = [point for one in roster for point in (one.seal_key, one.mask_key)]
    names, signers = {one.name for one in roster}, {one.signer for one in roster}
    doubled = len(set(points)) < len(points) or len(names) < len(roster) or len(signers) < len(roster)
    if doubled or not all(is_usable_point(point) for point in points):
        return Reason.BAD_ROSTER
    us = exchange.members.get(own)
    if us is None or (us.seal_key, us.mask_key) != (record.seal_key, record.mask_key):
        return Reason.BAD_ROSTER
    counted = _count_trusted(exchange, names, own, floors)
    if counted - floors.colluding < floors.least_sites or len(roster) < least_in_sum(
        exchange.threshold, floors.quorum_sites
    ):
        return Reason.TOO_FEW_PEERS
    invented = len(roster) - counted
    if margin_of(len(roster), exchange.threshold) <= floors.colluding + invented:
        return Reason.PRIVACY_BELOW_FLOOR
    return None


def _count_trusted(exchange: Exchange, sites: Collection[str], own: str, floors: PeerFloors) -> int:
    """Sites that count, the site itself among them."""
    if floors.pinned is None:
        return len(sites)
    return sum(site == own or exchange.members[site].signer in floors.pinned for site in sites)


def note_roster(record: SecureRecord, exchange: Exchange) -> SecureRecord:
    """The site deals shares to this roster."""
    return replace(record, exchange=exchange.digest.hex())


def judge_masking(record: SecureRecord, context: Context, own: str, weight: int, floors: PeerFloors) -> Reason | None:
    """Whether to mask an update under a context.

    Args:
        weight: the site's own, from what it announced itself, before any cap. A weight may be capped; then it is the
            largest of all (`coordinator.core.secure.weights`). Else the coordinator could give everybody but one site
            next to no weight, and its update were the sum.

    Returns:
        `other-context` (another roster, a site outside it, own weight changed), `asked-twice`, `too-few-peers`, None.
    """
    exchange = context.exchange
    if record.exchange != exchange.digest.hex():
        return Reason.OTHER_CONTEXT
    if record.context not in ("", context.digest.hex()):
        return Reason.ASKED_TWICE
    weights = context.weight_of
    if len(weights) < len(context.weights) or own not in weights or not exchange.members.keys() >= weights.keys():
        return Reason.OTHER_CONTEXT
    if min(weights.values()) < 1 or not (weights[own] == weight or weights[own] == max(weights.values()) < weight):
        return Reason.OTHER_CONTEXT
    return _judge_company(context, weights.keys(), own, floors)


def _judge_company(context: Context, sites: Collection[str], own: str, floors: PeerFloors) -> Reason | None:
    """Whether a sum over these sites hides each one of them."""
    enough = least_in_sum(context.exchange.threshold, floors.quorum_sites)
    counted = _count_trusted(context.exchange, sites, own, floors)
    return Reason.TOO_FEW_PEERS if len(sites) < enough or counted - floors.colluding < floors.least_sites else None


def note_masking(record: SecureRecord, context: Context) -> SecureRecord:
    """The site masks its update under this context: persisted before the first masked byte is made."""
    return replace(record, context=context.digest.hex())


def judge_closing(
    record: SecureRecord, context: Context, sites: Iterable[str], own: str, floors: PeerFloors
) -> Reason | None:
    """Whether to consent to unmasking the sum over `sites` (U3).

    Returns:
        `other-context`, `asked-twice`, `straggler` (the site's own update is not in it), `too-few-peers`, or None.
    """
    return _judge_sum(record, context, tuple(sites), own, floors)


def _judge_sum(
    record: SecureRecord, context: Context, sites: tuple[str, ...], own: str, floors: PeerFloors
) -> Reason | None:
    if record.context != context.digest.hex():
        return Reason.OTHER_CONTEXT
    closing = context.close_over(sites).hex()
    if record.consented not in ("", closing) or record.revealed not in ("", closing):
        return Reason.ASKED_TWICE
    if len(set(sites)) < len(sites) or not context.weight_of.keys() >= set(sites):
        return Reason.OTHER_CONTEXT
    if own not in sites:
        return Reason.STRAGGLER
    return _judge_company(context, sites, own, floors)


def note_closing(record: SecureRecord, context: Context, sites: Iterable[str]) -> SecureRecord:
    """The site consents."""
    return replace(record, consented=context.close_over(sites).hex())


def judge_unmasking(
    record: SecureRecord,
    context: Context,
    sites: Iterable[str],
    own: str,
    consents: Iterable[Consent],
    floors: PeerFloors,
) -> Reason | None:
    """Whether to reveal shares for the sum over `sites`: what `judge_closing` asks, and the threshold's number of
    consents to the very same context and sites, each of another site in it, by the key that the roster names.

    Returns:
        As `judge_closing`, or `consent-missing`.
    """
    names = tuple(sites)
    if reason := _judge_sum(record, context, names, own, floors):
        return reason
    asked = (context.digest.hex(), context.close_over(names).hex())
    agreed = {
        one.site
        for one in consents
        if (one.context, one.closing) == asked
        and one.site in names
        and one.signer == context.exchange.members[one.site].signer
    }
    return None if len(agreed) >= context.exchange.threshold else Reason.CONSENT_MISSING


def note_unmasking(record: SecureRecord, context: Context, sites: Iterable[str]) -> SecureRecord:
    """The site reveals; it can consent to nothing else any more."""
    closing = context.close_over(sites).hex()
    return replace(record, consented=closing, revealed=closing)
