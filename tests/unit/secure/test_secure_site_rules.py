"""What a hostile coordinator may try, each against honest sites: it is refused, or gives noise; no update is revealed.

`find_opened` is the judge: whose two secrets can be rebuilt from all that honest sites ever revealed. A masked update
is open only where both are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from secure_parties import (
    HonestSite,
    SecureRound,
    SiteRefused,
    exchange_shares,
    is_plain_sum,
    mask_updates,
    plain_words,
    reveal_sum,
    sign_for,
    sum_words,
    unmask_round,
)

from messages.reasons import Reason
from messages.secure.context import Member, make_context
from messages.secure.dealing import deal_shares, open_mail, prove_complaint
from messages.secure.keys import SiteSecrets, public_of
from messages.secure.masks import WordLayout, add_words
from messages.secure.rules import threshold_of
from messages.secure.shares import rebuild_secret
from messages.secure.site_rules import Consent, PeerFloors

LAYOUT = WordLayout(5, 2)
NAMES = ("anna", "bert", "carl", "dora", "emil")


def make_sites(floors: PeerFloors | None = None) -> list[HonestSite]:
    """Five honest sites."""
    return [HonestSite(name, weight=10, layout=LAYOUT, floors=floors or PeerFloors()) for name in NAMES]


def find_opened(run: SecureRound, sites: Iterable[HonestSite]) -> set[str]:
    """Whose update lies open: seed and masking key both follow from what was revealed."""
    seeds: dict[str, dict[int, bytes]] = defaultdict(dict)
    keys: dict[str, dict[int, bytes]] = defaultdict(dict)
    for site in sites:
        for reveal in site.revealed:
            place = run.exchange.places[site.name]
            for dealer, share in reveal.of_seeds.items():
                seeds[dealer][place] = share
            for dealer, share in reveal.of_keys.items():
                keys[dealer][place] = share
    opened = set()
    for site in sites:
        threshold, secrets = run.exchange.threshold, site.secrets
        knows_seed = rebuild_secret(seeds[site.name], threshold, secrets.self_seed.__eq__).secret
        knows_key = rebuild_secret(keys[site.name], threshold, secrets.mask_private.__eq__).secret
        if knows_seed and knows_key:
            opened.add(site.name)
    return opened


def refused(act: Callable[[], object]) -> Reason:
    """Why a site refuses."""
    with pytest.raises(SiteRefused) as caught:
        act()
    return caught.value.reason


def masked_round(floors: PeerFloors | None = None) -> tuple[SecureRound, list[HonestSite]]:
    """All five have sent a masked update."""
    sites = make_sites(floors)
    return mask_updates(exchange_shares(sites), sites), sites


def test_1_another_model_for_one_site_gives_noise_and_no_consents() -> None:
    sites = make_sites()
    sites[0].model = "c" * 64
    roster = [site.announce() for site in sites]
    deals = {site.name: site.take_roster(roster) for site in sites}
    run = mask_updates(SecureRound(sites[1].make_exchange(roster), deals=deals), sites)
    assert set(sites[0].unreadable) == set(NAMES) - {"anna"}  # shares are sealed under the model as well
    other = make_context(sites[0].make_exchange(roster), dict.fromkeys(NAMES, 10))
    assert run.context is not None
    consents = [site.take_closing(other if site is sites[0] else run.context, run.closed) for site in sites]
    assert refused(lambda: sites[0].take_unmasking(other, run.closed, consents)) is Reason.CONSENT_MISSING
    run.consents = consents
    run.reveals = {site.name: site.take_unmasking(run.context, run.closed, consents) for site in sites[1:]}
    run = unmask_round(run, LAYOUT)
    assert run.total is None  # nobody else holds a share of anna's that opens
    assert run.rebuilt is not None
    assert run.rebuilt.missing == ("anna",)
    assert find_opened(run, sites) == set()


def test_2_other_rosters_for_two_sites_make_no_sum() -> None:
    sites = make_sites()
    roster = [site.announce() for site in sites]
    deals = {site.name: site.take_roster(roster[:4] if site is sites[0] else roster) for site in sites}
    run = SecureRound(sites[1].make_exchange(roster), deals=deals)
    weights = dict.fromkeys(NAMES, 10)
    mail = {dealer: deals[dealer].sealed["anna"] for dealer in NAMES[1:]}
    assert refused(lambda: sites[0].take_masking(roster, weights, mail)) is Reason.OTHER_CONTEXT
    assert refused(lambda: sites[0].take_roster(roster)) is Reason.ASKED_TWICE
    assert find_opened(run, sites) == set()


def test_3_other_sets_of_dealers_give_noise_and_no_consents() -> None:
    sites = make_sites()
    run = exchange_shares(sites)
    everyone, fewer = (dict.fromkeys(names, 10) for names in (NAMES, NAMES[:4]))
    for site in sites[:4]:
        weights = fewer if site is sites[0] else everyone
        run.masked[site.name] = site.take_masking(run.exchange.roster, weights, run.mail_for(site.name))
    run.context = make_context(run.exchange, everyone)
    other = make_context(run.exchange, fewer)
    consents = [site.take_closing(other if site is sites[0] else run.context, run.closed) for site in sites[:4]]
    for site in sites[:4]:
        context = other if site is sites[0] else run.context
        assert refused(lambda site=site, context=context: site.take_unmasking(context, run.closed, consents)) is (
            Reason.CONSENT_MISSING
        )
    assert find_opened(run, sites) == set()


def test_4_two_sums_from_one_round_are_not_consented_to() -> None:
    """With one site and without it: the difference would be its update."""
    run, sites = masked_round()
    assert run.context is not None
    first = [site.take_closing(run.context, NAMES) for site in sites]
    for site in sites[1:]:
        assert refused(lambda site=site: site.take_closing(run.context, NAMES[1:])) is Reason.ASKED_TWICE
    for site in sites:
        site.take_unmasking(run.context, NAMES, first)
    assert refused(lambda: sites[1].take_unmasking(run.context, NAMES[1:], first)) is Reason.ASKED_TWICE
    assert find_opened(run, sites) == set()


def test_5_a_second_reveal_with_the_victim_called_lost_is_refused() -> None:
    run, sites = masked_round()
    assert run.context is not None
    reveal_sum(run, sites, sites)
    forged = [
        Consent(name, sign_for(name), run.context.digest.hex(), run.context.close_over(NAMES[1:]).hex())
        for name in NAMES[1:]
    ]
    for site in sites[1:]:
        assert refused(lambda site=site: site.take_unmasking(run.context, NAMES[1:], forged)) is Reason.ASKED_TWICE
    assert find_opened(run, sites) == set()


def test_6_consents_of_other_keys_contexts_or_one_site_many_times_do_not_count() -> None:
    run, sites = masked_round()
    assert run.context is not None
    good = [site.take_closing(run.context, NAMES) for site in sites]
    lies = {
        "another key": [replace(one, signer=sign_for("mallory")) for one in good],
        "another context": [replace(one, context="0" * 64) for one in good],
        "another set": [replace(one, closing="0" * 64) for one in good],
        "one site often": [good[0]] * 5,
        "one too few": good[: run.exchange.threshold - 1],
        "strangers": [replace(one, site=f"{one.site}-2") for one in good],
    }
    for what, consents in lies.items():
        for site in sites:
            reason = refused(lambda site=site, consents=consents: site.take_unmasking(run.context, NAMES, consents))
            assert reason is Reason.CONSENT_MISSING, what
    assert find_opened(run, sites) == set()
    assert not any(site.revealed for site in sites)


def test_7_changed_doubled_and_worthless_keys_in_a_roster_are_refused() -> None:
    sites = make_sites()
    roster = [site.announce() for site in sites]
    own = SiteSecrets(b"m" * 32)
    sealing, masking = public_of(own.seal_private), public_of(own.mask_private)

    def roster_with(**changes: object) -> list[Member]:
        return [replace(roster[0], **changes), *roster[1:]]  # type: ignore[arg-type]

    lies = [
        roster_with(seal_key=sealing),
        roster_with(mask_key=masking),
        roster_with(seal_key=roster[1].seal_key),
        roster_with(mask_key=roster[0].seal_key),
        roster_with(mask_key=bytes(32)),
        roster_with(signer=roster[1].signer),
        [*roster[:3], replace(roster[3], mask_key=roster[1].mask_key), roster[4]],
        [*roster[:3], replace(roster[3], seal_key=roster[1].mask_key), roster[4]],
        [*roster[:3], replace(roster[3], seal_key=bytes(32)), roster[4]],
        [*roster[:3], replace(roster[3], signer=roster[1].signer), roster[4]],
        [*roster, roster[1]],
        [*roster, replace(roster[1], name="fred")],
        roster[1:],
    ]
    for lie in lies:
        assert refused(lambda lie=lie: sites[0].take_roster(lie)) is Reason.BAD_ROSTER
    swapped = roster_with(seal_key=sealing, mask_key=masking)
    for site in sites[1:]:  # whom it was not signed for by anna
        assert refused(lambda site=site: site.take_roster(swapped, NAMES[1:])) is Reason.BAD_SIGNATURE


def test_8_no_new_try_begins_once_an_update_was_masked() -> None:
    run, sites = masked_round()
    for site in sites:
        assert refused(lambda site=site: site.announce(1, 2)) is Reason.ASKED_TWICE
        assert site.announce(1, 1) == run.exchange.members[site.name]
    assert find_opened(run, sites) == set()


def test_9_a_second_masked_update_of_a_round_is_refused_whatever_else_is_new() -> None:
    run, sites = masked_round()
    for weights in (dict.fromkeys(NAMES[:4], 10), {**dict.fromkeys(NAMES, 10), "bert": 11}):
        mail = run.mail_for("anna")
        assert refused(lambda w=weights, m=mail: sites[0].take_masking(run.exchange.roster, w, m)) is Reason.ASKED_TWICE
    again = sites[0].take_masking(run.exchange.roster, dict.fromkeys(NAMES, 10), run.mail_for("anna"))
    assert (again == run.masked["anna"]).all()


def test_10_sybils_do_not_count_and_are_taken_to_collude() -> None:
    pinned = PeerFloors(least_sites=3, pinned=frozenset(map(sign_for, NAMES)))

    def crowd(honest: int, invented: int) -> tuple[HonestSite, list[Member]]:
        sites = make_sites(pinned)[:honest]
        fakes = [HonestSite(f"sybil-{at:02}", layout=LAYOUT) for at in range(invented)]
        return sites[0], [site.announce() for site in (*sites, *fakes)]

    for honest, invented, reason in ((2, 8, Reason.TOO_FEW_PEERS), (5, 5, Reason.PRIVACY_BELOW_FLOOR)):
        site, roster = crowd(honest, invented)
        assert refused(lambda site=site, roster=roster: site.take_roster(roster)) is reason
    site, roster = crowd(5, 1)
    site.take_roster(roster)
    assert threshold_of(6) == 5


def test_11_weights_that_leave_one_update_alone_in_the_sum_are_refused() -> None:
    sites = make_sites()
    run = exchange_shares(sites)

    def refuses(site: HonestSite, weights: dict[str, int]) -> bool:
        act = lambda: site.take_masking(run.exchange.roster, weights, run.mail_for(site.name))  # noqa: E731
        return refused(act) is Reason.OTHER_CONTEXT

    unfair = {**dict.fromkeys(NAMES, 1), "anna": 10}
    assert all(refuses(site, unfair) for site in sites[1:])
    for weights in (
        {**unfair, "bert": 0},
        {**unfair, "mallory": 1},
        {"bert": 1, "carl": 1},
        {**dict.fromkeys(NAMES, 10), "anna": 9},
        {**dict.fromkeys(NAMES, 10), "anna": 11},
    ):
        assert refuses(sites[0], weights)


def test_a_weight_that_a_cap_made_less_is_the_largest_of_all() -> None:
    sites = make_sites()
    sites[0].weight, sites[1].weight = 1000, 900
    run = exchange_shares(sites)
    capped = {**dict.fromkeys(NAMES, 10), "anna": 15, "bert": 15}
    for site in sites:
        site.take_masking(run.exchange.roster, capped, run.mail_for(site.name))


def test_12_what_was_said_in_another_round_or_try_is_worth_nothing_here() -> None:
    run, sites = masked_round()
    old = reveal_sum(run, sites, sites)
    for site in sites:
        assert refused(lambda site=site: site.announce(0, 1)) is Reason.WRONG_ROUND
    first_try = exchange_shares(sites, 2, 1)
    second = exchange_shares(sites, 2, 2)
    assert refused(lambda: sites[0].announce(2, 1)) is Reason.OLDER_ATTEMPT
    assert refused(lambda: sites[0].announce(1, 1)) is Reason.WRONG_ROUND
    assert refused(lambda: sites[0].take_roster(first_try.exchange.roster)) is Reason.ASKED_TWICE
    old_mail = {dealer: deal.sealed["anna"] for dealer, deal in first_try.deals.items() if dealer != "anna"}
    second.masked["anna"] = sites[0].take_masking(second.exchange.roster, dict.fromkeys(NAMES, 10), old_mail)
    assert set(sites[0].unreadable) == set(NAMES[1:])
    context = make_context(second.exchange, dict.fromkeys(NAMES, 10))
    for site in sites[1:]:
        second.masked[site.name] = site.take_masking(
            second.exchange.roster, context.weight_of, second.mail_for(site.name)
        )
    assert old.context is not None
    assert refused(lambda: sites[1].take_unmasking(old.context, NAMES, old.consents)) is Reason.OTHER_CONTEXT
    assert refused(lambda: sites[1].take_unmasking(context, NAMES, old.consents)) is Reason.CONSENT_MISSING
    assert (second.masked["bert"] != run.masked["bert"]).any()


def test_13_a_sum_of_too_few_or_of_strangers_is_not_consented_to() -> None:
    run, sites = masked_round(PeerFloors(least_sites=3, colluding=1))
    assert run.context is not None
    assert run.exchange.threshold == 4
    assert refused(lambda: sites[0].take_closing(run.context, NAMES[:3])) is Reason.TOO_FEW_PEERS
    assert refused(lambda: sites[0].take_closing(run.context, NAMES[1:])) is Reason.STRAGGLER
    assert refused(lambda: sites[0].take_closing(run.context, (*NAMES, "mallory"))) is Reason.OTHER_CONTEXT
    assert refused(lambda: sites[0].take_closing(run.context, (*NAMES, "bert"))) is Reason.OTHER_CONTEXT
    strict = replace(sites[0], floors=PeerFloors(least_sites=4, colluding=1))
    assert refused(lambda: strict.take_closing(run.context, NAMES[:4])) is Reason.TOO_FEW_PEERS
    sites[0].take_closing(run.context, NAMES[:4])


def test_14_spoilt_mail_makes_nobody_prove_what_the_dealer_signed_well() -> None:
    """A coordinator that spoils anna's mail to everybody would collect the keys of all her messages."""
    sites = make_sites()
    run = exchange_shares(sites)
    for site in sites[1:]:
        signed = run.deals["anna"].sealed[site.name]
        site.take_masking(run.exchange.roster, dict.fromkeys(NAMES, 10), {**run.mail_for(site.name), "anna": bytes(82)})
        assert site.unreadable == ("anna",)
        assert prove_complaint(site.secrets, run.exchange, site.name, "anna", signed) is None


def test_15_mail_for_another_site_or_of_another_dealer_does_not_open() -> None:
    sites = make_sites()
    run = exchange_shares(sites)
    context = make_context(run.exchange, dict.fromkeys(NAMES, 10))
    mixed = {
        "bert": run.deals["bert"].sealed["carl"],
        "carl": run.deals["bert"].sealed["anna"],
        "dora": deal_shares(sites[3].secrets, sites[0].make_exchange(run.exchange.roster[:4]), "dora").sealed["anna"],
        "emil": run.deals["emil"].sealed["anna"],
    }
    opened = open_mail(sites[0].secrets, context, "anna", mixed)
    assert opened.unreadable == ("bert", "carl", "dora")
    assert set(opened.held) == {"anna", "emil"}


def test_colluders_below_the_bound_open_nothing_and_at_the_bound_they_would() -> None:
    """Two of five collude (2t - n = 3 > 2): the coordinator hears the honest three once, and two hold all they hold."""
    run, sites = masked_round()
    assert run.context is not None
    honest, colluding = sites[:3], sites[3:]
    consents = [site.take_closing(run.context, NAMES[:4]) for site in sites[:4]]
    for site in honest:
        site.take_unmasking(run.context, NAMES[:4], consents)
    threshold, places = run.exchange.threshold, run.exchange.places
    for victim in honest:
        seeds = {places[site.name]: site.revealed[0].of_seeds[victim.name] for site in honest}
        keys = {places[site.name]: site.held[victim.name].of_key for site in colluding}
        seeds |= {places[site.name]: site.held[victim.name].of_seed for site in colluding}
        assert rebuild_secret(seeds, threshold, victim.secrets.self_seed.__eq__).secret
        assert rebuild_secret(keys, threshold, victim.secrets.mask_private.__eq__).secret is None
        keys |= {places[site.name]: site.held[victim.name].of_key for site in honest[:2]}  # 4 = t: two more tell
        assert rebuild_secret(keys, threshold, victim.secrets.mask_private.__eq__).secret


def test_a_late_update_stays_masked_though_its_masking_key_is_revealed() -> None:
    run, sites = masked_round()
    late = run.masked.pop("emil")
    run = reveal_sum(run, sites[:4], sites[:4])
    assert is_plain_sum(run, LAYOUT)
    assert run.total is not None
    assert run.rebuilt is not None
    assert set(run.rebuilt.keys) == {"emil"}
    assert "emil" not in run.rebuilt.seeds
    total = run.total.copy()
    add_words(total, late, LAYOUT)
    wanted = sum_words((plain_words(name, LAYOUT) for name in NAMES), LAYOUT)
    assert not np.array_equal(total, wanted)
    assert find_opened(run, sites) == set()
