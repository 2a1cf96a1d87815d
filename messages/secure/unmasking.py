"""From what sites reveal to a sum without masks: what the coordinator does, and `konsil audit replay` does again. Pure.

Bonawitz et al. 2017, figure 4, round 4. What is rebuilt is checked: a self seed against its commitment, a masking key
against the public key in the roster. So a wrong share cannot change the sum; it is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from messages.reasons import Reason
from messages.secure.context import Context
from messages.secure.dealing import Reveal
from messages.secure.keys import commit_seed, pair_mask_key, public_of, self_mask_key
from messages.secure.masks import Mask, WordLayout, remove_masks, sign_of
from messages.secure.shares import is_share, rebuild_secret


@dataclass(frozen=True, slots=True)
class WrongShare:
    """A revealed share that does not fit (`bad-share`): its holder lied, or its dealer did.

    Their sealed message tells which, once the holder reveals its one-time key (`dealing.judge_complaint`).
    """

    dealer: str
    holder: str


@dataclass(frozen=True, slots=True)
class RebuiltSecrets:
    """What the reveals gave.

    Attributes:
        seeds: site of U3 → self seed.
        keys: site of U2 without U3 → private masking key.
        wrong: shares that do not fit, by dealer and holder.
        missing: whose secret could not be rebuilt: more reveals are needed, or the round is void.
    """

    seeds: Mapping[str, bytes] = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    wrong: tuple[WrongShare, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the sum can be unmasked."""
        return not self.missing


def judge_reveal(context: Context, sites: Iterable[str], reveal: Reveal) -> Reason | None:
    """Why a reveal is not taken: `malformed`: a dealer outside the set that it is told for, or bytes that are no share.
    Shares may be left out: a holder has none of a dealer that it complained about."""
    arrived = frozenset(sites)
    if not arrived.issuperset(reveal.of_seeds) or not frozenset(context.sites).difference(arrived).issuperset(
        reveal.of_keys
    ):
        return Reason.MALFORMED
    shares = (*reveal.of_seeds.values(), *reveal.of_keys.values())
    return None if all(is_share(one) for one in shares) else Reason.MALFORMED


def rebuild_secrets(
    context: Context, sites: Iterable[str], commitments: Mapping[str, bytes], reveals: Mapping[str, Reveal]
) -> RebuiltSecrets:
    """Rebuild what a sum over `sites` (U3) needs.

    Args:
        commitments: dealer → SHA-256 of its self seed, as in its `secure-shares`.
        reveals: holder → what it told; each judged by `judge_reveal`. More than the threshold help to find wrong ones.
    """
    arrived = frozenset(sites)
    holders = {place: name for name, place in context.exchange.places.items()}
    seeds: dict[str, bytes] = {}
    keys: dict[str, bytes] = {}
    wrong, missing = [], []
    doubts: Counter[int] = Counter()
    for dealer in context.sites:
        into, is_right = (seeds, _fits_seed) if dealer in arrived else (keys, _fits_key)
        told = {
            context.exchange.places[holder]: shares[dealer]
            for holder, one in reveals.items()
            if dealer in (shares := one.of_seeds if dealer in arrived else one.of_keys)
        }
        published = commitments[dealer] if dealer in arrived else context.exchange.members[dealer].mask_key
        found = rebuild_secret(
            told, context.exchange.threshold, partial(is_right, published), [place for place, _ in doubts.most_common()]
        )
        doubts.update(found.wrong)
        wrong += [WrongShare(dealer, holders[place]) for place in found.wrong]
        if found.secret is None:
            missing.append(dealer)
        else:
            into[dealer] = found.secret
    return RebuiltSecrets(seeds, keys, tuple(wrong), tuple(missing))


def _fits_seed(commitment: bytes, seed: bytes) -> bool:
    return commit_seed(seed) == commitment


def _fits_key(public: bytes, private: bytes) -> bool:
    return public_of(private) == public


def masks_left(context: Context, sites: Iterable[str], secrets: RebuiltSecrets) -> list[Mask]:
    """The masks in the sum of U3's masked updates: each one's own, and those that they share with the lost.

    Raises:
        ValueError: a secret is missing.
    """
    arrived = sorted(sites)
    if secrets.missing:
        raise ValueError(f"{len(secrets.missing)} secrets could not be rebuilt")
    masks = [Mask(self_mask_key(secrets.seeds[site], site, context), 1) for site in arrived]
    for lost, private in secrets.keys.items():
        loaded = X25519PrivateKey.from_private_bytes(private)
        masks += [Mask(pair_mask_key(loaded, lost, site, context), sign_of(site, lost)) for site in arrived]
    return masks


def unmask_sum(
    total: NDArray[np.uint8], layout: WordLayout, context: Context, sites: Iterable[str], secrets: RebuiltSecrets
) -> None:
    """Take the masks off a sum (`masks.add_words` over all of U3), in place, by block; ValueError as `masks_left`."""
    remove_masks(total, layout, masks_left(context, sites, secrets))
