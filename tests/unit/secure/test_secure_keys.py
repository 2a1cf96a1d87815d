"""Every key is for one use: another exchange, context, pair or direction has another one, from both sides alike."""

from __future__ import annotations

from dataclasses import replace

from secure_parties import HonestSite, exchange_shares, mask_updates, sum_words

from messages.secure.context import Context, Exchange, make_context
from messages.secure.keys import SiteSecrets, open_sealed, pair_mask_key, seal_bytes, sealing_key, self_mask_key
from messages.secure.masks import Mask, WordLayout, remove_masks

LAYOUT = WordLayout(5, 2)
NAMES = ("anna", "bert", "carl")


def make_run() -> tuple[list[HonestSite], Exchange, Context]:
    """Three sites that have dealt shares."""
    sites = [HonestSite(name, layout=LAYOUT) for name in NAMES]
    exchange = exchange_shares(sites).exchange
    return sites, exchange, make_context(exchange, dict.fromkeys(NAMES, 1))


def list_exchanges(exchange: Exchange) -> list[Exchange]:
    """Each differs from the first in one thing."""
    return [
        exchange,
        replace(exchange, experiment="0" * 64),
        replace(exchange, model="0" * 64),
        replace(exchange, round=2),
        replace(exchange, attempt=2),
        replace(exchange, threshold=2),
        replace(exchange, roster=(*exchange.roster[:2], replace(exchange.roster[2], signer="0" * 64))),
    ]


def list_contexts(context: Context) -> list[Context]:
    """Each differs from the first in one thing."""
    others = [make_context(one, dict(context.weights)) for one in list_exchanges(context.exchange)]
    return [*others, make_context(context.exchange, {**dict(context.weights), "carl": 2})]


def test_pairwise_masks_agree_under_one_context_and_under_no_other() -> None:
    (anna, bert, carl), _, context = make_run()
    keys = [pair_mask_key(anna.secrets.mask_private, "anna", "bert", one) for one in list_contexts(context)]
    assert len(set(keys)) == len(keys) == 8
    assert keys == [pair_mask_key(bert.secrets.mask_loaded, "bert", "anna", one) for one in list_contexts(context)]
    assert pair_mask_key(carl.secrets.mask_private, "carl", "bert", context) not in keys


def test_a_sites_own_mask_is_another_under_every_context() -> None:
    (anna, *_), _, context = make_run()
    keys = [self_mask_key(anna.secrets.self_seed, "anna", one) for one in list_contexts(context)]
    assert len({*keys, self_mask_key(anna.secrets.self_seed, "bert", context)}) == 9


def test_shares_are_sealed_under_one_exchange_pair_and_direction() -> None:
    """A second roster in one try would else have two plain texts under one key and nonce."""
    (anna, bert, _), exchange, _ = make_run()
    all_exchanges = list_exchanges(exchange)
    keys = [sealing_key(anna.secrets.seal_private, one, "anna", "bert", own="anna") for one in all_exchanges]
    assert len(set(keys)) == len(keys) == 7
    assert keys == [sealing_key(bert.secrets.seal_loaded, one, "anna", "bert", own="bert") for one in all_exchanges]
    assert sealing_key(anna.secrets.seal_private, exchange, "bert", "anna", own="anna") not in keys
    sealed = seal_bytes(keys[0], b"shares", exchange, "anna", "bert")
    assert open_sealed(keys[0], sealed, exchange, "anna", "bert") == b"shares"
    for other in all_exchanges[1:]:
        assert open_sealed(keys[0], sealed, other, "anna", "bert") is None
    assert open_sealed(keys[0], sealed, exchange, "bert", "anna") is None
    assert open_sealed(keys[0], sealed[:-1] + bytes([sealed[-1] ^ 1]), exchange, "anna", "bert") is None


def test_a_sum_over_two_contexts_is_noise_even_without_the_sites_own_masks() -> None:
    """What a coordinator has that lied about weights to one site, were all seeds revealed to it."""
    sites, exchange, context = make_run()
    sites[0].weight = 2
    other = make_context(exchange, {**dict(context.weights), "anna": 2})
    run = exchange_shares(sites)
    masked = [
        site.take_masking(exchange.roster, one.weight_of, run.mail_for(site.name))
        for site, one in zip(sites, (other, context, context), strict=True)
    ]
    total = sum_words(masked, LAYOUT)
    for site, one in zip(sites, (other, context, context), strict=True):
        remove_masks(total, LAYOUT, [Mask(self_mask_key(site.secrets.self_seed, site.name, one), 1)])
    fresh = [HonestSite(name, layout=LAYOUT) for name in NAMES]
    right = mask_updates(exchange_shares(fresh), fresh)
    agreed = sum_words(right.masked.values(), LAYOUT)
    for site in fresh:
        remove_masks(agreed, LAYOUT, [Mask(self_mask_key(site.secrets.self_seed, site.name, context), 1)])
    assert (agreed[:20].view("<u4") != total[:20].view("<u4")).all()


def test_no_secret_stands_in_the_text_of_what_holds_it() -> None:
    secrets = SiteSecrets(b"s" * 32)
    assert "ssss" not in repr(secrets)
    assert repr(Mask(b"k" * 32, 1)) == "Mask(sign=1)"
