"""A sum without masks is the plain sum in every bit, whoever is lost and when; otherwise there is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_parties import (
    GAPS,
    HonestSite,
    SecureRound,
    exchange_shares,
    is_plain_sum,
    mask_updates,
    plain_words,
    play_round,
    reveal_sum,
    sum_words,
    unmask_round,
)

from messages.reasons import Reason
from messages.secure.dealing import Reveal, judge_complaint, prove_complaint
from messages.secure.keys import SiteSecrets, seal_bytes, sealing_key
from messages.secure.masks import WordLayout
from messages.secure.rules import ThresholdRule, bound_round, least_in_sum, threshold_of
from messages.secure.unmasking import WrongShare, judge_reveal, masks_left, rebuild_secrets

LAYOUT = WordLayout(5, 2)


def make_sites(number: int, rule: ThresholdRule | None = None) -> list[HonestSite]:
    """site-00, site-01, … with weights of their own."""
    return [HonestSite(f"site-{at:02}", weight=at + 1, rule=rule, layout=LAYOUT) for at in range(number)]


def masked_round(number: int, lost: int = 0) -> tuple[SecureRound, list[HonestSite]]:
    """Masked updates of all but the last `lost` sites, and who sent them."""
    sites = make_sites(number)
    run = exchange_shares(sites)
    run = mask_updates(run, sites)
    for site in sites[number - lost :]:
        del run.masked[site.name]
    return run, sites[: number - lost]


@pytest.mark.parametrize("rule", ["two-thirds", "majority"])
@pytest.mark.parametrize("number", [3, 4, 5])
def test_whoever_is_lost_in_whichever_gap_the_sum_is_exact_or_there_is_none(number: int, rule: ThresholdRule) -> None:
    """Every way to lose sites, up to who is called what; names are dealt in turns, so that each sign comes by."""
    exact = 0
    for turn, gaps in enumerate(combinations_with_replacement(GAPS, number)):
        sites = make_sites(number, rule)
        lost = {site.name: gaps[(at + turn) % number] for at, site in enumerate(sites)}
        reached = [sum(GAPS.index(gap) > step for gap in gaps) for step in range(len(GAPS) - 1)]
        threshold = threshold_of(reached[0], rule)
        enough = least_in_sum(threshold)
        asked = (3, enough, enough, threshold, threshold)
        run = play_round(sites, lost)
        if all(there >= needed for there, needed in zip(reached, asked, strict=True)):
            assert run is not None
            assert is_plain_sum(run, LAYOUT), lost
            assert run.rebuilt is not None
            assert run.rebuilt.wrong == ()
            exact += 1
        else:
            assert run is None or run.total is None, lost
    assert exact


@pytest.mark.parametrize(("number", "lost"), [(10, 3), (100, 33)])
def test_the_sum_of_many_sites_is_exact(number: int, lost: int) -> None:
    sites = make_sites(number)
    run = play_round(sites, {site.name: "update" for site in sites[::3][:lost]})
    assert run is not None
    assert len(run.closed) == number - lost
    assert is_plain_sum(run, LAYOUT)


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 12), st.data())
def test_any_loss_within_the_bounds_of_a_round_is_borne(number: int, data: st.DataObject) -> None:
    bounds = bound_round(number)
    lost = data.draw(st.lists(st.integers(0, number - 1), unique=True, max_size=bounds.losses))
    gaps = {f"site-{at:02}": data.draw(st.sampled_from(GAPS[1:])) for at in lost}
    run = play_round(make_sites(number), gaps)
    assert run is not None
    assert is_plain_sum(run, LAYOUT)


def test_no_masked_update_and_no_sum_with_masks_shows_the_words() -> None:
    run, left = masked_round(4, 1)
    for site in left:
        assert (run.masked[site.name] != plain_words(site.name, LAYOUT)).any()
    assert (
        sum_words(run.masked.values(), LAYOUT) != sum_words((plain_words(s.name, LAYOUT) for s in left), LAYOUT)
    ).any()


def test_a_site_that_was_killed_says_the_same_bytes_again() -> None:
    run, sites = masked_round(3)
    one = sites[0]
    again = replace(one)
    assert again.take_roster(run.exchange.roster) == run.deals[one.name]
    assert run.context is not None
    words = again.take_masking(run.exchange.roster, run.context.weight_of, run.mail_for(one.name))
    assert (words == run.masked[one.name]).all()
    first = one.take_closing(run.context, run.closed)
    assert again.take_closing(run.context, run.closed) == first


def test_a_wrong_share_is_named_and_the_sum_is_exact_all_the_same() -> None:
    run, left = masked_round(7, 1)
    run = reveal_sum(run, left, left)
    assert run.context is not None
    liar = run.reveals["site-02"]
    one_off = {name: bytes([share[0], share[1] ^ 1]) + share[2:] for name, share in liar.of_seeds.items()}
    run.reveals["site-02"] = Reveal({**one_off, "site-03": liar.of_seeds["site-03"]}, liar.of_keys)
    run.total = None
    run = unmask_round(run, LAYOUT)
    assert is_plain_sum(run, LAYOUT)
    assert run.rebuilt is not None
    assert set(run.rebuilt.wrong) == {WrongShare(name, "site-02") for name in one_off if name != "site-03"}


def test_too_many_wrong_shares_name_whose_secret_is_missing() -> None:
    run, left = masked_round(4)
    run = reveal_sum(run, left, left)
    assert run.context is not None
    for name in ("site-00", "site-01"):
        told = run.reveals[name]
        run.reveals[name] = Reveal({**told.of_seeds, "site-03": bytes(33)}, told.of_keys)
    rebuilt = rebuild_secrets(run.context, run.closed, run.commitments, run.reveals)
    assert rebuilt.missing == ("site-03",)
    assert not rebuilt.complete
    with pytest.raises(ValueError, match="1 secrets"):
        masks_left(run.context, run.closed, rebuilt)


def test_a_reveal_of_the_other_share_or_of_no_share_is_not_taken() -> None:
    run, left = masked_round(4, 1)
    run = reveal_sum(run, left, left)
    assert run.context is not None
    told = run.reveals["site-00"]
    assert judge_reveal(run.context, run.closed, told) is None
    for bad in (
        Reveal({**told.of_seeds, "site-03": bytes(33)}, {}),
        Reveal(told.of_seeds, {**told.of_keys, "site-01": bytes(33)}),
        Reveal({**told.of_seeds, "site-01": bytes(32)}, told.of_keys),
        Reveal({**told.of_seeds, "site-01": b"\xff" * 33}, told.of_keys),
        Reveal({**told.of_seeds, "nobody": bytes(33)}, told.of_keys),
    ):
        assert judge_reveal(run.context, run.closed, bad) is Reason.MALFORMED


def test_who_cannot_read_a_share_masks_all_the_same_and_leaves_it_out() -> None:
    sites = make_sites(7)
    run = exchange_shares(sites)
    spoilt = {**run.deals["site-01"].sealed, "site-00": bytes(82)}
    run.deals = {**run.deals, "site-01": replace(run.deals["site-01"], sealed=spoilt)}
    run = mask_updates(run, sites)
    assert sites[0].unreadable == ("site-01",)
    run = reveal_sum(run, sites, sites)
    assert "site-01" not in run.reveals["site-00"].of_seeds
    assert is_plain_sum(run, LAYOUT)


def test_a_complaint_is_proven_by_the_key_of_that_one_message() -> None:
    sites = make_sites(3)
    run = exchange_shares(sites)
    dealer, holder = sites[0], sites[1]
    good = run.deals[dealer.name].sealed[holder.name]
    to, of = holder.name, dealer.name
    key = sealing_key(dealer.secrets.seal_private, run.exchange, of, to, own=of)
    short = seal_bytes(key, b"no shares", run.exchange, of, to)
    assert prove_complaint(holder.secrets, run.exchange, to, of, short) == key
    assert judge_complaint(run.exchange, of, to, short, key) == "dealer"
    assert prove_complaint(holder.secrets, run.exchange, to, of, bytes(82)) == key
    assert judge_complaint(run.exchange, of, to, bytes(82), key) == "either"
    assert judge_complaint(run.exchange, of, to, good, key) == "holder"
    assert judge_complaint(run.exchange, of, to, good, SiteSecrets(bytes(32)).self_seed) == "either"
