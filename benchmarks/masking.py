"""`python -m benchmarks.masking`: what a secure round costs in arithmetic: masking, summing, unmasking, exchanging.

Everything lies in memory, one core does it all, and the figure is the median of so many laps. It is CPU time: on a
machine that does nothing else that is the time that passes. The lost sites dealt shares and sent no update.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from messages.secure.context import Context, make_context, make_exchange
from messages.secure.dealing import choose_reveal, deal_shares, open_mail
from messages.secure.encoding import find_arrival, find_share, find_shrink, quantise_tensor, restore_tensor, sum_squares
from messages.secure.keys import SiteSecrets
from messages.secure.masks import WordLayout, add_masks, add_words, masks_of_site
from messages.secure.rules import threshold_of
from messages.secure.unmasking import rebuild_secrets, unmask_sum


def take_median(laps: int, work: Callable[[], Any]) -> float:
    """CPU seconds of the lap in the middle."""
    taken = []
    for _ in range(laps):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return median(taken)


def measure(weights: int, sites: int, lost: int, laps: int) -> dict[str, Any]:
    """One row."""
    names = [f"site-{at:03}" for at in range(sites)]
    roots = {name: SiteSecrets(secrets.token_bytes(32)) for name in names}
    exchange = make_exchange(
        experiment="e" * 64,
        model="a" * 64,
        round_number=1,
        attempt=1,
        threshold=threshold_of(sites),
        roster=[root.announce(name, name) for name, root in roots.items()],
    )
    first = names[0]
    deal = take_median(laps, lambda: deal_shares(roots[first], exchange, first))
    deals = {name: deal_shares(root, exchange, name) for name, root in roots.items()}
    context = make_context(exchange, {name: at + 1 for at, name in enumerate(names)})
    mail = {name: {one: deals[one].sealed[name] for one in names if one != name} for name in names}
    read = take_median(laps, lambda: open_mail(roots[first], context, first, mail[first]))

    layout, rng = WordLayout(weights, 64), np.random.default_rng(1)
    received = rng.standard_normal(weights, dtype=np.float32)
    trained = received + rng.standard_normal(weights, dtype=np.float32) / 100
    buffer, total = np.zeros(layout.nbytes, np.uint8), np.zeros(layout.nbytes, np.uint8)
    words = buffer[: 4 * weights].view(np.uint32)

    def encode() -> None:
        shrink = find_shrink(sum_squares(trained, received), 1e6)
        quantise_tensor(trained, received, share=find_share(context, first), shrink=shrink, out=words)

    encoding = take_median(laps, encode)
    masking = take_median(laps, lambda: add_masks(buffer, layout, masks_of_site(roots[first], context, first)))
    adding = take_median(laps, lambda: add_words(total, buffer, layout))
    closed = names[lost:]
    rebuilding, unmasking = _time_unmasking(context, closed, deals, roots, mail, total, layout, laps)
    restoring = take_median(
        laps,
        lambda: restore_tensor(
            total[: 4 * weights].view(np.uint32), received, find_arrival(context, closed), np.empty_like(received)
        ),
    )
    return {
        "weights": weights,
        "sites": sites,
        "lost": lost,
        "encode": encoding,
        "mask": masking,
        "mask_a_peer": masking / (sites - 1),
        "add": adding,
        "rebuild": rebuilding,
        "unmask": unmasking,
        "restore": restoring,
        "deal": deal,
        "open": read,
    }


def _time_unmasking(
    context: Context,
    closed: list[str],
    deals: dict[str, Any],
    roots: dict[str, SiteSecrets],
    mail: dict[str, dict[str, bytes]],
    total: np.ndarray[Any, np.dtype[np.uint8]],
    layout: WordLayout,
    laps: int,
) -> tuple[float, float]:
    """CPU seconds until the secrets are there, and until their masks are off."""
    reveals = {
        name: choose_reveal(context, closed, open_mail(roots[name], context, name, mail[name]).held)
        for name in closed[: context.exchange.threshold]
    }
    commitments = {name: deal.commitment for name, deal in deals.items()}
    rebuilding = take_median(laps, lambda: rebuild_secrets(context, closed, commitments, reveals))
    rebuilt = rebuild_secrets(context, closed, commitments, reveals)
    return rebuilding, take_median(laps, lambda: unmask_sum(total, layout, context, closed, rebuilt))


def main() -> None:
    """A row for each number of sites."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=4_800_000)
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--laps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [measure(asked.weights, sites, (sites - 1) // 3, asked.laps) for sites in asked.sites]
    if asked.json:
        json.dump(rows, sys.stdout, indent=1)
        return
    print(f"{asked.weights:,} weights, CPU milliseconds\n")
    print("| " + " | ".join(key.replace("_", " ") for key in rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(v) if isinstance(v, int) else f"{v * 1000:.1f}" for v in row.values()) + " |")


if __name__ == "__main__":
    main()
