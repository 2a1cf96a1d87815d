"""Differences as whole numbers: no sum wraps, what comes back is the weighted mean, and what cannot be is noticed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from messages.sections import MOST_SITES
from messages.secure.context import Context, make_context, make_exchange
from messages.secure.encoding import (
    BLOCK,
    RestoredSum,
    find_arrival,
    find_bound,
    find_share,
    find_shrink,
    is_out_of_range,
    quantise_tensor,
    restore_tensor,
    sum_squares,
)
from messages.secure.figures import Figure, decode_figures, encode_figures, find_impossible

WEIGHTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=12)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EXTREME = st.one_of(NUMBERS, st.sampled_from([3.4e38, -3.4e38, 1.0, -1.0, 0.0, 1e-40]))


def context_of(weights: list[int]) -> Context:
    """Only its weights matter here."""
    exchange = make_exchange(experiment="", model="", round_number=1, attempt=1, threshold=1, roster=())
    return make_context(exchange, {f"site-{at:04}": weight for at, weight in enumerate(weights)})


def encode(
    context: Context, site: str, trained: NDArray[np.float32], received: NDArray[np.float32], shrink: float = 1.0
) -> NDArray[np.uint32]:
    """One site's words."""
    out = np.empty(received.size, np.uint32)
    quantise_tensor(trained, received, share=find_share(context, site), shrink=shrink, out=out)
    return out


@given(st.lists(EXTREME, max_size=5))
def test_the_bound_is_the_smallest_power_of_two_above_the_model(values: list[float]) -> None:
    received = np.array(values, np.float32)
    bound = find_bound(received)
    largest = max(1.0, *(abs(float(value)) for value in received), 0.0) if values else 1.0
    assert math.frexp(bound)[0] == 0.5
    assert bound / 2 < largest <= bound or bound == 1.0 == largest


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.lists(st.tuples(EXTREME, EXTREME), min_size=1, max_size=4), st.data())
def test_no_sum_wraps_whatever_sites_send(
    weights: list[int], pairs: list[tuple[float, float]], data: st.DataObject
) -> None:
    """Even where all differences are clipped, and point the same way: whole numbers without bounds are the same."""
    context = context_of(weights)
    received, trained = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    arrived = data.draw(st.lists(st.sampled_from(context.sites), unique=True, min_size=1))
    words = [encode(context, site, trained, received) for site in arrived]
    exact = [
        sum(int(number) for number in column) for column in zip(*(one.view(np.int32) for one in words), strict=True)
    ]
    wrapped = sum(words, np.zeros(received.size, np.uint32))
    assert wrapped.view(np.int32).tolist() == exact
    arrival = find_arrival(context, arrived)
    assert max(abs(number) for number in exact) <= arrival.reach < 2**31


def test_a_thousand_sites_at_the_bound_do_not_wrap() -> None:
    context = context_of([1] * MOST_SITES)
    received = np.ones(1, np.float32)
    words = encode(context, context.sites[0], np.full(1, 9, np.float32), received).view(np.int32)
    assert int(words[0]) * MOST_SITES <= find_arrival(context, context.sites).reach < 2**31


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 2**32), st.data())
def test_what_comes_back_is_the_weighted_mean_of_those_that_arrived(
    weights: list[int], seed: int, data: st.DataObject
) -> None:
    context, random = context_of(weights), np.random.default_rng(seed)
    received = random.normal(size=50).astype(np.float32)
    arrived = data.draw(st.lists(st.sampled_from(context.sites), unique=True, min_size=1))
    trained = {site: (received + random.normal(size=50) / 10).astype(np.float32) for site in arrived}
    total = sum((encode(context, site, trained[site], received) for site in arrived), np.zeros(50, np.uint32))
    arrival, out = find_arrival(context, arrived), np.empty(50, np.float32)
    seen = restore_tensor(total, received, arrival, out)
    weight = {site: context.weight_of[site] for site in arrived}
    wanted = sum(weight[site] * trained[site].astype(np.float64) for site in arrived) / sum(weight.values())
    step = find_bound(received) / 2**30 / arrival.part * len(arrived) / 2
    assert np.abs(out - wanted).max() <= step + 1e-6
    norms = [math.sqrt(sum_squares(trained[site], received)) for site in arrived]
    assert seen.is_sound(arrival, max(norms))


def test_a_tensor_of_several_blocks_is_encoded_and_restored_as_one() -> None:
    context, random = context_of([3, 5]), np.random.default_rng(1)
    received = random.normal(size=(3, BLOCK)).astype(np.float32)
    trained = {site: received + np.float32(0.25) * (at + 1) for at, site in enumerate(context.sites)}
    total = encode(context, "site-0000", trained["site-0000"], received) + encode(
        context, "site-0001", trained["site-0001"], received
    )
    out = np.empty_like(received)
    seen = restore_tensor(total, received, find_arrival(context, context.sites), out)
    assert np.allclose(out - received, (3 * 0.25 + 5 * 0.5) / 8, atol=1e-6)
    assert math.isclose(seen.squares, sum_squares(out, received), rel_tol=1e-5)
    in_place = total.view(np.float32).reshape(received.shape)
    assert restore_tensor(total, received, find_arrival(context, context.sites), in_place) == seen
    assert np.array_equal(in_place, out)


def test_clipped_elements_are_counted_and_more_than_one_in_ten_thousand_is_too_many() -> None:
    context, received = context_of([1]), np.zeros(10_000, np.float32)
    trained = received.copy()
    trained[:2] = (1.5, -7)
    out = np.empty(10_000, np.uint32)
    assert quantise_tensor(trained, received, share=find_share(context, "site-0000"), shrink=1.0, out=out) == 2
    assert out.view(np.int32)[:3].tolist() == [2**30, -(2**30), 0]
    assert is_out_of_range(2, 10_000)
    assert not is_out_of_range(1, 10_000)
    assert not is_out_of_range(0, 0)


def test_a_difference_longer_than_allowed_is_shortened_to_it() -> None:
    context, received = context_of([1]), np.zeros(4, np.float32)
    trained = np.array([3, 4, 0, 0], np.float32) / 8
    shrink = find_shrink(sum_squares(trained, received), 0.125)
    out = np.empty(4, np.float32)
    words = encode(context, "site-0000", trained, received, shrink)
    restore_tensor(words, received, find_arrival(context, ["site-0000"]), out)
    assert np.allclose(out, trained / 5, atol=1e-8)
    assert find_shrink(0.25, 0.5) == 1.0 == find_shrink(1e9, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    context, fine = context_of([1]), np.zeros(3, np.float32)
    spoilt = np.array([0, bad, 0], np.float32)
    for trained, received in ((spoilt, fine), (fine, spoilt)):
        with pytest.raises(ValueError, match="infinity"):
            encode(context, "site-0000", trained, received)


def test_masks_that_did_not_cancel_and_a_longer_mean_are_no_sound_sum() -> None:
    context, received = context_of([1, 1]), np.zeros(64, np.float32)
    arrival = find_arrival(context, context.sites)
    noise = np.random.default_rng(1).integers(0, 2**32, 64, np.uint32)
    assert not restore_tensor(noise, received, arrival, np.empty(64, np.float32)).is_sound(arrival, None)
    long = sum((encode(context, site, received + 1, received) for site in context.sites), np.zeros(64, np.uint32))
    seen = restore_tensor(long, received, arrival, np.empty(64, np.float32))
    assert seen.is_sound(arrival, None)
    assert seen.is_sound(arrival, 8.0)
    assert not seen.is_sound(arrival, 7.99)
    assert (RestoredSum() + seen).is_sound(arrival, 8.0)


def test_a_sum_that_leaves_float32_is_not_sound() -> None:
    context, received = context_of([1]), np.full(3, 3e38, np.float32)
    words = encode(context, "site-0000", np.zeros(3, np.float32), received)
    against = -words.view(np.int32)
    arrival = find_arrival(context, context.sites)
    assert restore_tensor(words, received, arrival, np.empty(3, np.float32)).is_sound(arrival, None)
    assert not restore_tensor(against.view(np.uint32), received, arrival, np.empty(3, np.float32)).is_sound(
        arrival, None
    )


def test_shapes_that_do_not_fit_are_refused() -> None:
    context, three, four = context_of([1]), np.zeros(3, np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="shapes differ"):
        encode(context, "site-0000", four, three)
    with pytest.raises(ValueError, match="as many words"):
        quantise_tensor(three, three, share=1.0, shrink=1.0, out=np.empty(4, np.uint32))
    with pytest.raises(ValueError, match="a sum of"):
        restore_tensor(np.zeros(4, np.uint32), three, find_arrival(context, context.sites), three.copy())


TABLE = (Figure("cases", 1e9), Figure("loss", 1e6, 20), Figure("huge", 1e12, -10))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(-1e7, 1e7), st.floats(-1e13, 1e13)), min_size=1, max_size=20)
)
def test_sums_of_figures_are_those_of_clipped_ones_and_counts_are_exact(rows: list[tuple[int, float, float]]) -> None:
    words = [encode_figures(TABLE, {"cases": cases, "loss": loss, "huge": huge}) for cases, loss, huge in rows]
    total = decode_figures(TABLE, sum(words, np.zeros(3, np.uint64)))
    assert total["cases"] == sum(cases for cases, _, _ in rows)
    losses = [max(-1e6, min(1e6, loss)) for _, loss, _ in rows]
    assert abs(total["loss"] - math.fsum(losses)) <= len(rows) * 2.0**-20
    assert find_impossible(TABLE, sum(words, np.zeros(3, np.uint64)), len(rows)) is None


def test_the_largest_figures_of_all_sites_do_not_wrap_and_more_is_noticed() -> None:
    tight = (Figure("tight", 2.0**51, 0),)
    word = encode_figures(tight, {"tight": 2.0**60})
    total = word * np.uint64(MOST_SITES)
    assert decode_figures(tight, total) == {"tight": 2.0**51 * MOST_SITES}
    assert find_impossible(tight, total, MOST_SITES) is None
    assert find_impossible(tight, total, MOST_SITES - 1) == "tight"
    with pytest.raises(ValueError, match="63 bits"):
        Figure("wide", 2.0**53)


def test_figures_outside_the_table_or_not_finite_are_refused_and_missing_ones_are_nought() -> None:
    assert decode_figures(TABLE, encode_figures(TABLE, {"cases": 2})) == {"cases": 2, "loss": 0, "huge": 0}
    for bad in ({"other": 1.0}, {"loss": math.nan}):
        with pytest.raises(ValueError, match="figures"):
            encode_figures(TABLE, bad)
