"""A secure round in memory, out of the pure functions alone: honest sites that judge before they act, a coordinator
that follows the protocol. Hostile ones script the sites' methods themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from messages.reasons import Reason
from messages.secure import site_rules
from messages.secure.context import Context, Exchange, Member, make_context, make_exchange
from messages.secure.dealing import Deal, HeldShares, Reveal, choose_reveal, deal_shares, open_mail
from messages.secure.keys import SiteSecrets
from messages.secure.masks import WordLayout, add_masks, add_words, masks_of_site
from messages.secure.rules import ThresholdRule, least_in_sum, threshold_of
from messages.secure.site_rules import Consent, PeerFloors, SecureRecord
from messages.secure.unmasking import RebuiltSecrets, judge_reveal, rebuild_secrets, unmask_sum

EXPERIMENT, MODEL = "e" * 64, "a" * 64
GAPS = ("keys", "shares", "update", "consent", "reveal", "never")
"""What a site is lost before."""


class SiteRefused(Exception):
    """An honest site will not do that."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def sign_for(name: str) -> str:
    """The fingerprint of a site's signing key."""
    return sha256(name.encode()).hexdigest()


def plain_words(name: str, layout: WordLayout) -> NDArray[np.uint8]:
    """What a site would send without masks: some words, every one of them any number."""
    return np.random.default_rng(list(name.encode())).integers(0, 256, layout.nbytes, np.uint8)


@dataclass
class HonestSite:
    """A site that asks `site_rules` before it does anything. What it says is what its methods return."""

    name: str
    weight: int = 1
    model: str = MODEL
    floors: PeerFloors = field(default_factory=PeerFloors)
    rule: ThresholdRule | None = None
    layout: WordLayout = field(default_factory=lambda: WordLayout(5, 2))
    record: SecureRecord = field(default_factory=SecureRecord)
    held: Mapping[str, HeldShares] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    revealed: list[Reveal] = field(default_factory=list)

    @property
    def secrets(self) -> SiteSecrets:
        """Of the newest try."""
        return self._secrets_of(self.record.round, self.record.attempt)

    def _secrets_of(self, round_number: int, attempt: int) -> SiteSecrets:
        """A root is never used for two tries."""
        return SiteSecrets(sha256(f"{self.name} {round_number} {attempt}".encode()).digest())

    def announce(self, round_number: int = 1, attempt: int = 1) -> Member:
        """KEYS."""
        _go_on(site_rules.judge_opening(self.record, round_number, attempt))
        us = self._secrets_of(round_number, attempt).announce(self.name, sign_for(self.name))
        self.record = site_rules.note_opening(self.record, round_number, attempt, us.seal_key, us.mask_key)
        return us

    def make_exchange(self, roster: Iterable[Member]) -> Exchange:
        """The exchange as this site sees it: its own model and try, its own count."""
        members = list(roster)
        return make_exchange(
            experiment=EXPERIMENT,
            model=self.model,
            round_number=self.record.round,
            attempt=self.record.attempt,
            threshold=threshold_of(len(members), self.rule),
            roster=members,
        )

    def take_roster(self, roster: Sequence[Member], verified: Iterable[str] | None = None) -> Deal:
        """SHARES."""
        exchange = self.make_exchange(roster)
        good = {one.name for one in roster} if verified is None else set(verified)
        _go_on(site_rules.judge_roster(self.record, exchange, self.name, good, self.floors))
        self.record = site_rules.note_roster(self.record, exchange)
        return deal_shares(self.secrets, exchange, self.name)

    def take_masking(
        self, roster: Sequence[Member], weights: Mapping[str, int], mail: Mapping[str, bytes]
    ) -> NDArray[np.uint8]:
        """UPDATES: the masked words."""
        context = make_context(self.make_exchange(roster), weights)
        _go_on(site_rules.judge_masking(self.record, context, self.name, self.weight, self.floors))
        self.record = site_rules.note_masking(self.record, context)
        opened = open_mail(self.secrets, context, self.name, mail)
        self.held, self.unreadable = opened.held, opened.unreadable
        words = plain_words(self.name, self.layout)
        add_masks(words, self.layout, masks_of_site(self.secrets, context, self.name))
        return words

    def take_closing(self, context: Context, sites: Iterable[str]) -> Consent:
        """CONSENT."""
        names = list(sites)
        _go_on(site_rules.judge_closing(self.record, context, names, self.name, self.floors))
        self.record = site_rules.note_closing(self.record, context, names)
        return Consent(self.name, sign_for(self.name), context.digest.hex(), context.close_over(names).hex())

    def take_unmasking(self, context: Context, sites: Iterable[str], consents: Iterable[Consent]) -> Reveal:
        """REVEAL."""
        names = list(sites)
        _go_on(site_rules.judge_unmasking(self.record, context, names, self.name, consents, self.floors))
        self.record = site_rules.note_unmasking(self.record, context, names)
        self.revealed.append(choose_reveal(context, names, self.held))
        return self.revealed[-1]


def _go_on(reason: Reason | None) -> None:
    if reason is not None:
        raise SiteRefused(reason)


@dataclass
class SecureRound:
    """What an honest coordinator has of a round, step by step; None of `total`: void."""

    exchange: Exchange
    context: Context | None = None
    deals: Mapping[str, Deal] = field(default_factory=dict)
    masked: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    consents: list[Consent] = field(default_factory=list)
    reveals: dict[str, Reveal] = field(default_factory=dict)
    rebuilt: RebuiltSecrets | None = None
    total: NDArray[np.uint8] | None = None

    @property
    def closed(self) -> list[str]:
        """U3."""
        return sorted(self.masked)

    @property
    def commitments(self) -> dict[str, bytes]:
        """By dealer."""
        return {name: deal.commitment for name, deal in self.deals.items()}

    def mail_for(self, name: str) -> dict[str, bytes]:
        """What dealers sealed for a site."""
        return {dealer: deal.sealed[name] for dealer, deal in self.deals.items() if dealer != name}


def exchange_shares(sites: Sequence[HonestSite], round_number: int = 1, attempt: int = 1) -> SecureRound:
    """KEYS and SHARES among sites that all answer."""
    roster = [site.announce(round_number, attempt) for site in sites]
    deals = {site.name: site.take_roster(roster) for site in sites}
    return SecureRound(sites[0].make_exchange(roster), deals=deals)


def mask_updates(run: SecureRound, sites: Sequence[HonestSite]) -> SecureRound:
    """UPDATES of these, under a context of all that dealt shares."""
    weights = {site.name: site.weight for site in sites if site.name in run.deals}
    run.context = make_context(run.exchange, weights)
    for site in sites:
        run.masked[site.name] = site.take_masking(run.exchange.roster, weights, run.mail_for(site.name))
    return run


def play_round(sites: Sequence[HonestSite], lost: Mapping[str, str], least: int = 3) -> SecureRound | None:
    """A whole round; None, or one without a total, where it is void.

    Args:
        lost: site → which of `GAPS` it is lost before.
        least: how many sites the exchange goes on with.
    """

    def alive(names: Iterable[str], gap: str) -> list[HonestSite]:
        known = set(names)
        return [one for one in sites if one.name in known and GAPS.index(lost.get(one.name, "never")) > GAPS.index(gap)]

    present = alive((one.name for one in sites), "keys")
    roster = [site.announce() for site in present]
    if len(roster) < least:
        return None
    run = SecureRound(present[0].make_exchange(roster))
    enough = least_in_sum(run.exchange.threshold, least)
    run.deals = {site.name: site.take_roster(roster) for site in alive(run.exchange.members, "shares")}
    if len(run.deals) < enough:
        return run
    weights = {site.name: site.weight for site in sites if site.name in run.deals}
    run.context = make_context(run.exchange, weights)
    for site in alive(run.deals, "update"):
        run.masked[site.name] = site.take_masking(roster, weights, run.mail_for(site.name))
    if len(run.masked) < enough:
        return run
    return reveal_sum(run, alive(run.masked, "consent"), alive(run.masked, "reveal"))


def reveal_sum(run: SecureRound, consenting: Sequence[HonestSite], revealing: Sequence[HonestSite]) -> SecureRound:
    """CONSENT and REVEAL, and the sum without masks where enough of both came."""
    context = run.context
    assert context is not None
    run.consents = [site.take_closing(context, run.closed) for site in consenting]
    if len(run.consents) < run.exchange.threshold:
        return run
    run.reveals = {site.name: site.take_unmasking(context, run.closed, run.consents) for site in revealing}
    if len(run.reveals) < run.exchange.threshold:
        return run
    return unmask_round(run, consenting[0].layout)


def unmask_round(run: SecureRound, layout: WordLayout) -> SecureRound:
    """The coordinator's last step, from what was revealed."""
    context = run.context
    assert context is not None
    assert all(judge_reveal(context, run.closed, one) is None for one in run.reveals.values())
    run.rebuilt = rebuild_secrets(context, run.closed, run.commitments, run.reveals)
    if run.rebuilt.complete:
        run.total = sum_words(run.masked.values(), layout)
        unmask_sum(run.total, layout, context, run.closed, run.rebuilt)
    return run


def sum_words(parts: Iterable[NDArray[np.uint8]], layout: WordLayout) -> NDArray[np.uint8]:
    """The plain sum of buffers."""
    total = np.zeros(layout.nbytes, np.uint8)
    for one in parts:
        add_words(total, one, layout)
    return total


def is_plain_sum(run: SecureRound, layout: WordLayout) -> bool:
    """Whether the sum is, bit for bit, that of the updates of U3 without any mask."""
    wanted = sum_words((plain_words(name, layout) for name in run.closed), layout)
    return run.total is not None and bool(np.array_equal(run.total, wanted))
