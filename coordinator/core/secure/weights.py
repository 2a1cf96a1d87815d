"""How much each site of a secure round weighs: whole and public numbers, known before anything is masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


def weigh_sites(cases: Mapping[str, int], *, weight_by: Literal["cases_used", "equal"], cap: float) -> dict[str, int]:
    """Each site's weight: its cases as it joined, or 1; less where its share would be beyond the cap.

    A weight that is capped goes down, and none goes up: so a site sees that it weighs no more than its own cases. With
    n sites the cap is not below 1/n; it holds as near as whole numbers come.

    Args:
        cases: site → training cases, 1 at least.
        cap: no site has more than this share of the sum.
    """
    raw = {site: 1 if weight_by == "equal" else max(1, cases[site]) for site in sorted(cases)}
    weights, limit, capped = dict(raw), max(cap, 1.0 / len(raw)), set[str]()
    while over := {site for site, weight in weights.items() if weight > limit * sum(weights.values())} - capped:
        capped |= over
        rest, left = sum(weight for site, weight in raw.items() if site not in capped), 1.0 - limit * len(capped)
        if not rest or left <= 0:
            return dict.fromkeys(raw, min(raw.values()))
        weights |= {site: min(raw[site], max(1, int(limit * rest / left))) for site in capped}
    return weights
