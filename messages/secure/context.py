"""What all sites of a secure round must agree on, as digests that every key is derived under.

Two stages. The `Exchange` is known once the roster is there: shares are sealed under it. The `Context` is known once it
is clear who dealt shares (U2) and with which weights: masks are derived under it. Each site makes both from what it saw
itself: its own digest of the model that it trained, its own count of the roster. Where the coordinator told two sites
different things, their masks do not cancel, and what it gets is noise (Pasquini et al. 2022, "Eluding Secure
Aggregation in Federated Learning via Model Inconsistency", CCS).

A digest is SHA-256 over a line that says what it is of and canonical msgpack (`messages.codec.canonical`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from messages import codec

_EXCHANGE = "konsil secure exchange 1"
_CONTEXT = "konsil secure context 1"
_CLOSING = "konsil secure closing 1"


@dataclass(frozen=True, slots=True)
class Member:
    """A site of the roster.

    Attributes:
        name: the site's.
        seal_key: X25519 public key (32 bytes) that shares for it are sealed to.
        mask_key: X25519 public key (32 bytes) that its pairwise masks come from.
        signer: fingerprint (`messages.trust.keys.fingerprint_of`) of the Ed25519 key that signed both.
    """

    name: str
    seal_key: bytes
    mask_key: bytes
    signer: str


@dataclass(frozen=True)
class Exchange:
    """One try of a round's exchange of keys and shares. Make it with `make_exchange`, which sorts the roster.

    Attributes:
        experiment: digest (hex) of the experiment.
        model: digest (hex) of the model that the round starts from.
        round: the round's number.
        attempt: the number of the try, from 1.
        threshold: how many rebuild a secret.
        roster: who announced keys (U1), in the order of names.
    """

    experiment: str
    model: str
    round: int
    attempt: int
    threshold: int
    roster: tuple[Member, ...]

    @cached_property
    def digest(self) -> bytes:
        """32 bytes over all of it."""
        return _digest_of(
            _EXCHANGE,
            {
                "experiment": self.experiment,
                "model": self.model,
                "round": self.round,
                "attempt": self.attempt,
                "threshold": self.threshold,
                "roster": [[one.name, one.seal_key, one.mask_key, one.signer] for one in self.roster],
            },
        )

    @cached_property
    def members(self) -> Mapping[str, Member]:
        """By name."""
        return {one.name: one for one in self.roster}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Name → where its shares are of the polynomials: 1 to n, in the order of names."""
        return {one.name: place for place, one in enumerate(self.roster, 1)}


def make_exchange(
    *, experiment: str, model: str, round_number: int, attempt: int, threshold: int, roster: Iterable[Member]
) -> Exchange:
    """An exchange with its roster sorted by name. Whether it may be acted on says `site_rules.judge_roster`."""
    members = tuple(sorted(roster, key=lambda one: one.name))
    return Exchange(experiment, model, round_number, attempt, threshold, members)


@dataclass(frozen=True)
class Context:
    """What the masks of a round are derived under. Make it with `make_context`, which sorts the weights.

    Attributes:
        exchange: the try that shares were dealt in.
        weights: (site, weight) of everyone who dealt shares (U2), in the order of names; weights are whole and public.
    """

    exchange: Exchange
    weights: tuple[tuple[str, int], ...]

    @cached_property
    def digest(self) -> bytes:
        """32 bytes over all of it."""
        return _digest_of(
            _CONTEXT, {"exchange": self.exchange.digest, "weights": [[name, weight] for name, weight in self.weights]}
        )

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """U2, in the order of names."""
        return tuple(name for name, _ in self.weights)

    @cached_property
    def weight_of(self) -> Mapping[str, int]:
        """Site → weight."""
        return dict(self.weights)

    @cached_property
    def whole(self) -> int:
        """Sum of all weights of U2."""
        return sum(weight for _, weight in self.weights)

    def close_over(self, sites: Iterable[str]) -> bytes:
        """Digest (32 bytes) of what a consent is given to: this context, and the sites whose updates came (U3)."""
        return _digest_of(_CLOSING, {"context": self.digest, "sites": sorted(sites)})


def make_context(exchange: Exchange, weights: Mapping[str, int]) -> Context:
    """A context with its sites in the order of names. Whether a site may mask under it says
    `site_rules.judge_masking`."""
    return Context(exchange, tuple(sorted(weights.items())))


def _digest_of(what: str, content: Mapping[str, Any]) -> bytes:
    return sha256(what.encode() + b"\n" + codec.canonical(dict(content))).digest()
