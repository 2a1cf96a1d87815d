"""Shamir's sharing: any threshold of shares, no fewer, and wrong ones found."""

from __future__ import annotations

import hashlib
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.secure.shares import PRIME, RebuiltSecret, is_share, rebuild_secret, split_secret

SECRETS = st.binary(min_size=32, max_size=32)


def places_of(shares: list[bytes]) -> dict[int, bytes]:
    """Place → share."""
    return dict(enumerate(shares, 1))


def test_the_modulus_is_prime() -> None:
    """Fermat to 40 bases; Miller and Rabin add nothing for a number that nobody chose to deceive."""
    assert PRIME == 2**256 + 297
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in range(2, 42))


@settings(max_examples=40, deadline=None)
@given(SECRETS, SECRETS, st.integers(1, 12), st.data())
def test_any_threshold_of_shares_gives_the_secret_and_fewer_give_none(
    secret: bytes, seed: bytes, holders: int, data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, holders))
    shares = split_secret(secret, threshold, holders, seed)
    assert all(is_share(one) for one in shares)
    chosen = data.draw(st.lists(st.sampled_from(range(1, holders + 1)), unique=True, min_size=threshold))
    held = {place: shares[place - 1] for place in chosen}
    assert rebuild_secret(held, threshold, secret.__eq__) == RebuiltSecret(secret)
    fewer = {place: shares[place - 1] for place in chosen[: threshold - 1]}
    assert rebuild_secret(fewer, threshold, secret.__eq__) == RebuiltSecret(None)


def test_fewer_shares_fit_every_secret_alike() -> None:
    """One share less than the threshold: for each secret there is a polynomial through them, and only one."""
    shares = split_secret(bytes(31) + b"\x07", 3, 5, b"s" * 32)
    first, second = (int.from_bytes(one, "big") for one in shares[:2])
    for secret in (0, 1, 2**256 - 1):
        third = (secret - 3 * first + 3 * second) % PRIME  # the quadratic's value at 3, out of those at 0, 1, 2
        held = {1: shares[0], 2: shares[1], 3: third.to_bytes(33, "big")}
        assert rebuild_secret(held, 3, lambda _: True).secret == secret.to_bytes(32, "big")


@settings(max_examples=30, deadline=None)
@given(SECRETS, st.integers(3, 9), st.data())
def test_wrong_shares_are_named_where_enough_are_right(secret: bytes, holders: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, holders))
    shares = places_of(split_secret(secret, threshold, holders, b"s" * 32))
    liars = data.draw(st.sets(st.integers(1, holders), max_size=holders - threshold))
    for liar in liars:
        value = (int.from_bytes(shares[liar], "big") + data.draw(st.integers(1, PRIME - 1))) % PRIME
        shares[liar] = value.to_bytes(33, "big")
    doubted = data.draw(st.lists(st.integers(1, holders), unique=True))
    assert rebuild_secret(shares, threshold, secret.__eq__, doubted) == RebuiltSecret(secret, tuple(sorted(liars)))


def test_with_too_many_wrong_shares_there_is_no_secret() -> None:
    secret, shares = b"x" * 32, places_of(split_secret(b"x" * 32, 3, 4, b"s" * 32))
    assert rebuild_secret({**shares, 1: bytes(33), 2: bytes(33)}, 3, secret.__eq__).secret is None


def test_two_liars_among_a_hundred_are_found_and_those_doubted_are_asked_last() -> None:
    secret, shares = b"x" * 32, places_of(split_secret(b"x" * 32, 67, 100, b"s" * 32))
    shares |= {3: bytes(33), 50: bytes(33)}
    assert rebuild_secret(shares, 67, secret.__eq__) == RebuiltSecret(secret, (3, 50))
    tries: list[bytes] = []
    assert rebuild_secret(shares, 67, lambda one: not tries.append(one) and one == secret, [50, 3]).wrong == (3, 50)
    assert tries == [secret]


def test_of_a_hundred_shares_as_many_are_borne_wrong_as_a_code_bears_and_all_wrong_ones_cost_one_decoding() -> None:
    secret = bytes(range(32))
    shares = dict(enumerate(split_secret(secret, 67, 100, b"s" * 32), 1))
    liars = list(range(3, 51, 3))
    lied = {place: bytes([0, place]) + bytes(31) for place in liars}
    found = rebuild_secret(shares | lied, 67, secret.__eq__)
    assert (found.secret, list(found.wrong)) == (secret, liars)
    assert len(liars) == (100 - 67) // 2
    asked: list[bytes] = []
    nonsense = {place: hashlib.sha256(bytes([place])).digest() + bytes(1) for place in range(1, 101)}
    nonsense = {place: bytes(1) + one[:32] for place, one in nonsense.items()}
    assert rebuild_secret(nonsense, 67, lambda one: bool(asked.append(one))).secret is None
    assert len(asked) <= 1


def test_liars_whose_lies_cancel_out_in_the_secret_name_nobody_else() -> None:
    secret, shares = b"x" * 32, places_of(split_secret(b"x" * 32, 3, 7, b"s" * 32))
    for liar in (1, 2):  # of the shares at 1, 2 and 3 the secret is 3 of the first less 3 of the second and the third
        shares[liar] = ((int.from_bytes(shares[liar], "big") + 5) % PRIME).to_bytes(33, "big")
    assert rebuild_secret(shares, 3, secret.__eq__) == RebuiltSecret(secret, (1, 2))


def test_what_is_no_share_is_named() -> None:
    secret, shares = b"x" * 32, places_of(split_secret(b"x" * 32, 2, 4, b"s" * 32))
    shares |= {1: PRIME.to_bytes(33, "big"), 3: b"short"}
    assert rebuild_secret(shares, 2, secret.__eq__) == RebuiltSecret(secret, (1, 3))


def test_shares_of_another_seed_are_others() -> None:
    one, other = (split_secret(b"x" * 32, 2, 3, seed * 32) for seed in (b"a", b"b"))
    assert not set(one) & set(other)
    assert split_secret(b"x" * 32, 2, 3, b"a" * 32) == one


@pytest.mark.parametrize(("secret", "threshold", "holders"), [(b"short", 2, 3), (bytes(32), 0, 3), (bytes(32), 4, 3)])
def test_what_cannot_be_shared_is_refused(secret: bytes, threshold: int, holders: int) -> None:
    with pytest.raises(ValueError, match=r"bytes|asked for"):
        split_secret(secret, threshold, holders, bytes(32))


def test_each_of_a_hundred_secrets_is_joined_from_the_same_holders() -> None:
    """The factors of a set of holders are found once: else this test takes a minute."""
    held = [places_of(split_secret(bytes([at]) * 32, 67, 100, b"s" * 32)) for at in range(10)]
    for at, shares in enumerate(held):
        assert rebuild_secret(shares, 67, (bytes([at]) * 32).__eq__) == RebuiltSecret(bytes([at]) * 32)


def test_the_places_of_shares_do_not_matter_to_the_secret() -> None:
    shares = places_of(split_secret(b"y" * 32, 3, 6, b"s" * 32))
    for chosen in combinations(shares, 3):
        assert rebuild_secret({place: shares[place] for place in chosen}, 3, (b"y" * 32).__eq__).secret == b"y" * 32
