"""A site's part of the exchange: deal shares to peers, open what peers dealt, reveal one share for each site.

A sealed message holds two shares: of the dealer's self seed, and of its masking key. A site reveals of each dealer the
one or the other, never both (Bonawitz et al. 2017, section 4: double masking).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from messages.secure.context import Context, Exchange
from messages.secure.keys import TAG_BYTES, SiteSecrets, expand_key, open_sealed, seal_bytes, sealing_key
from messages.secure.shares import SHARE_BYTES, is_share, split_secret

SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
"""Of one sealed pair of shares."""


@dataclass(frozen=True, slots=True)
class HeldShares:
    """What one site holds of one dealer; 33 bytes each."""

    of_seed: bytes = field(repr=False)
    of_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deal:
    """What a site says in `secure-shares`.

    Attributes:
        commitment: SHA-256 of its self seed.
        sealed: peer → `SEALED_BYTES` bytes, for all of the roster but itself.
    """

    commitment: bytes
    sealed: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class OpenedMail:
    """What a site made of its mail.

    Attributes:
        held: dealer → shares, itself included.
        unreadable: who dealt a share that does not open, or none at all, though it is in U2: what `secure-complaint`
            names.
    """

    held: Mapping[str, HeldShares]
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """What a site says in `secure-reveal`: one share for each dealer, 33 bytes; the two never have a name in common.

    Attributes:
        of_seeds: dealer of U3 → share of its self seed.
        of_keys: dealer of U2 without U3 → share of its masking key.
    """

    of_seeds: Mapping[str, bytes] = field(repr=False)
    of_keys: Mapping[str, bytes] = field(repr=False)


def deal_shares(secrets: SiteSecrets, exchange: Exchange, own: str) -> Deal:
    """Shares for every peer of the roster, sealed; the same input gives the same bytes.

    The roster must have been judged (`site_rules.judge_roster`).

    Raises:
        ValueError: a peer's key is of small order. KeyError: `own` is not in the roster.
    """
    held = _own_shares(secrets, exchange)
    sealed = {}
    for peer, place in exchange.places.items():
        if peer != own:
            shares = held[place - 1]
            key = sealing_key(secrets.seal_loaded, exchange, own, peer, own=own)
            sealed[peer] = seal_bytes(key, shares.of_seed + shares.of_key, exchange, own, peer)
    return Deal(secrets.commitment, sealed)


def _own_shares(secrets: SiteSecrets, exchange: Exchange) -> list[HeldShares]:
    """What this site deals to each place. Another roster has other polynomials: shares of two never go together."""
    split = [
        split_secret(
            secret,
            exchange.threshold,
            len(exchange.roster),
            expand_key(secrets.root, b"konsil secure polynomial 1\n" + of + b"\n" + exchange.digest),
        )
        for of, secret in ((b"seed", secrets.self_seed), (b"key", secrets.mask_private))
    ]
    return [HeldShares(of_seed, of_key) for of_seed, of_key in zip(*split, strict=True)]


def open_mail(secrets: SiteSecrets, context: Context, own: str, mail: Mapping[str, bytes]) -> OpenedMail:
    """Open what each dealer of U2 sealed for this site.

    Args:
        mail: dealer → sealed bytes as in its `secure-shares`; who is outside U2 is passed over.
    """
    exchange = context.exchange
    held = {own: _own_shares(secrets, exchange)[exchange.places[own] - 1]}
    unreadable = []
    for dealer in context.sites:
        if dealer == own:
            continue
        key = sealing_key(secrets.seal_loaded, exchange, dealer, own, own=own)
        plain = open_sealed(key, mail.get(dealer, b""), exchange, dealer, own)
        if (shares := _read_shares(plain)) is None:
            unreadable.append(dealer)
        else:
            held[dealer] = shares
    return OpenedMail(held, tuple(unreadable))


def _read_shares(plain: bytes | None) -> HeldShares | None:
    if plain is None or len(plain) != 2 * SHARE_BYTES:
        return None
    shares = HeldShares(plain[:SHARE_BYTES], plain[SHARE_BYTES:])
    return shares if is_share(shares.of_seed) and is_share(shares.of_key) else None


def choose_reveal(context: Context, sites: Iterable[str], held: Mapping[str, HeldShares]) -> Reveal:
    """The one share of each dealer that may be told: of the seed where its update came (`sites`, U3), else of the key.

    Dealers without readable shares are left out. Judge first: `site_rules.judge_unmasking`.
    """
    arrived = frozenset(sites)
    return Reveal(
        {dealer: held[dealer].of_seed for dealer in context.sites if dealer in held and dealer in arrived},
        {dealer: held[dealer].of_key for dealer in context.sites if dealer in held and dealer not in arrived},
    )


def prove_complaint(secrets: SiteSecrets, exchange: Exchange, own: str, dealer: str, sealed: bytes) -> bytes | None:
    """The one-time key of a message that this site complained about, for all to see; None: it must not be told.

    It must not where the message opens: then the coordinator delivered other bytes than the dealer signed. The key of a
    good message gives both of the dealer's shares away, and a coordinator that spoilt the mail of one dealer to
    everybody could collect all of them.

    Args:
        sealed: what stands for this site in the dealer's own `secure-shares`, whose signature the caller has verified
            under `Member.signer`. Never what the coordinator says it is.
    """
    key = sealing_key(secrets.seal_loaded, exchange, dealer, own, own=own)
    return key if _read_shares(open_sealed(key, sealed, exchange, dealer, own)) is None else None


Verdict = Literal["dealer", "holder", "either"]


def judge_complaint(exchange: Exchange, dealer: str, holder: str, sealed: bytes, key: bytes) -> Verdict:
    """Whose fault a complaint shows, once the holder revealed the message's one-time key (`keys.sealing_key`).

    | the message, under the revealed key | verdict |
    |---|---|
    | does not open | "either": a dealer that sealed wrongly, or a holder that revealed another key |
    | opens, and holds no two shares | "dealer": it signed that message, and nobody else can make one that opens |
    | opens, and holds two shares | "holder": it could have read them |
    """
    plain = open_sealed(key, sealed, exchange, dealer, holder)
    if plain is None:
        return "either"
    return "dealer" if _read_shares(plain) is None else "holder"
