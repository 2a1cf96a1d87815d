"""Shamir's secret sharing of 32-byte secrets over the integers modulo 2^256 + 297 (a prime).

Shamir 1979, "How to share a secret" (CACM 22). Any `threshold` shares give the secret, fewer say nothing of it. A share
is 33 bytes, big-endian; whose it is says its place, 1 to n. The polynomial's coefficients come from a seed, so that a
site that was killed deals the same shares again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import combinations
from math import comb, prod

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from messages.secure.decoding import evaluate, find_polynomial

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
MOST_SUBSETS = 200
"""Subsets of shares that are tried where there are no more of them, and shares lie on no polynomial that most of them
would: all of 7 of 10, and each but one of 68."""


def split_secret(secret: bytes, threshold: int, holders: int, seed: bytes) -> list[bytes]:
    """A share for each place, 1 to `holders`, in their order.

    Args:
        secret: 32 bytes.
        threshold: how many shares give the secret; 1 to `holders`.
        seed: 32 secret bytes, for this secret and this split only.

    Raises:
        ValueError: a length or number that cannot be.
    """
    if len(secret) != SECRET_BYTES or len(seed) != SECRET_BYTES:
        raise ValueError(f"secret and seed have {SECRET_BYTES} bytes")
    if not 1 <= threshold <= holders:
        raise ValueError(f"{threshold} of {holders} shares cannot be asked for")
    coefficients = [int.from_bytes(secret, "big"), *(_draw_coefficient(seed, power) for power in range(1, threshold))]
    return [_evaluate(coefficients, place).to_bytes(SHARE_BYTES, "big") for place in range(1, holders + 1)]


def _draw_coefficient(seed: bytes, power: int) -> int:
    """64 bytes modulo the prime: off uniform by less than 2^-254."""
    info = b"konsil secure coefficient 1\n" + power.to_bytes(4, "big")
    return int.from_bytes(HKDF(algorithm=hashes.SHA256(), length=64, salt=None, info=info).derive(seed), "big") % PRIME


def _evaluate(coefficients: Sequence[int], place: int) -> int:
    value = 0
    for one in reversed(coefficients):
        value = (value * place + one) % PRIME
    return value


def is_share(share: bytes) -> bool:
    """Whether bytes can be a share: 33 of them, below the modulus."""
    return len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME


@dataclass(frozen=True, slots=True)
class RebuiltSecret:
    """What shares gave.

    Attributes:
        secret: 32 bytes; None: too few shares, or too many of them wrong.
        wrong: places whose shares do not fit the secret. Either their holder told another share than it was dealt, or
            the dealer dealt a wrong one; both are named to whoever looks into it.
    """

    secret: bytes | None = field(repr=False)
    wrong: tuple[int, ...] = ()


def rebuild_secret(
    shares: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool], doubted: Sequence[int] = ()
) -> RebuiltSecret:
    """The secret of any `threshold` shares for which `is_right`; shares that do not fit it are named.

    Args:
        shares: place → share.
        is_right: whether a secret fits what its owner published (commitment, public key).
        doubted: places to leave out first where shares are wrong: those found before in the same round.
    """
    values = {place: int.from_bytes(share, "big") for place, share in shares.items() if is_share(share)}
    malformed = tuple(sorted(set(shares) - set(values)))
    order = sorted(values, key=lambda place: (place in doubted, place))
    best: RebuiltSecret | None = None
    for secret, polynomial in _guess_secrets(values, order, threshold):
        if secret < 2 ** (8 * SECRET_BYTES) and is_right(found := secret.to_bytes(SECRET_BYTES, "big")):
            wrong = [place for place in order if polynomial(place) != values[place]]
            fits = RebuiltSecret(found, tuple(sorted({*malformed, *wrong})))
            if 2 * len(wrong) <= len(order) - threshold:
                return fits  # no other polynomial has so many shares on it
            # Wrong shares may cancel out in the secret: then it is right, and those who told the truth look wrong.
            best = fits if best is None or len(fits.wrong) < len(best.wrong) else best
    return best or RebuiltSecret(None, malformed)


Guess = tuple[int, Callable[[int], int]]
"""A secret, and what its share at each place would be."""


def _guess_secrets(values: Mapping[int, int], order: Sequence[int], threshold: int) -> Iterator[Guess]:
    """Of the first shares; where some are wrong, of those that most lie on; then of each subset, where there are few.

    A dealer that dealt nothing but nonsense costs one decoding, and so does each further share of it.
    """
    if len(order) < threshold:
        return
    yield _join_shares(values, tuple(order[:threshold]))
    found = find_polynomial({place: values[place] for place in order}, threshold, PRIME)
    if found is not None:
        yield evaluate(found, 0, PRIME), partial(evaluate, found, prime=PRIME)
    if comb(len(order), threshold) <= MOST_SUBSETS:
        for chosen in combinations(order, threshold):
            yield _join_shares(values, chosen)


def _join_shares(values: Mapping[int, int], chosen: tuple[int, ...]) -> Guess:
    return _interpolate(values, chosen, 0), lambda at: values[at] if at in chosen else _interpolate(values, chosen, at)


def _interpolate(values: Mapping[int, int], chosen: tuple[int, ...], at: int) -> int:
    """The value at a place of the polynomial through the chosen ones."""
    return sum(factor * values[place] for factor, place in zip(_find_factors(chosen, at), chosen, strict=True)) % PRIME


@lru_cache(maxsize=512)
def _find_factors(chosen: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Lagrange's factors; the same for all secrets that the same holders reveal."""
    factors = []
    for place in chosen:
        others = [other for other in chosen if other != place]
        above, below = prod(at - other for other in others), prod(place - other for other in others)
        factors.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(factors)
