"""How many sites a secure round needs, and what it bears: thresholds, losses, colluding sites. Pure integers.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS), section 6: against
an active server, a threshold t of n sites bears c colluding sites where 2t - n > c. Then no honest site's two secrets
can both be rebuilt, and no two different sets of sites can both be consented to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from messages.secure.section import LEAST_SECURE_SITES

ThresholdRule = Literal["two-thirds", "majority"]
MOST_TRIES = 3
"""Exchanges of keys and shares that a coordinator begins in a round before it gives the round up."""


def threshold_of(sites: int, rule: ThresholdRule | None = None) -> int:
    """How many of a roster of `sites` rebuild a secret: floor(2n/3) + 1, or floor(n/2) + 1 under "majority".

    A roster of one or two has a threshold as well; no site goes on with such a roster (`messages.secure.site_rules`).
    """
    return sites // 2 + 1 if rule == "majority" else min(sites, 2 * sites // 3 + 1)


def least_in_sum(threshold: int, quorum_sites: int = 1) -> int:
    """The smallest U3 (sites whose updates are in the sum) that may be unmasked: threshold, quorum, and three."""
    return max(threshold, quorum_sites, LEAST_SECURE_SITES)


def margin_of(sites: int, threshold: int) -> int:
    """2t - n: it must be larger than the number of colluding sites."""
    return 2 * threshold - sites


@dataclass(frozen=True, slots=True)
class RoundBounds:
    """What a secure round of `sites` bears.

    Attributes:
        sites: of the roster (n).
        threshold: how many rebuild a secret (t).
        least: the smallest sum that may be unmasked; with fewer updates the round waits, and is void in the end.
        losses: sites that may be lost once shares are dealt; 0: one lost site makes the round void.
        colluding: sites that may pool all they know with the coordinator and learn no single update. The smallest sum
            holds two updates beside theirs. -1: the coordinator alone may learn one.
    """

    sites: int
    threshold: int
    least: int
    losses: int
    colluding: int

    @property
    def possible(self) -> bool:
        """Whether a round of so many sites can end with a sum at all."""
        return self.losses >= 0 and self.colluding >= 0


def bound_round(sites: int, rule: ThresholdRule | None = None, quorum_sites: int = 1) -> RoundBounds:
    """What a round of `sites` bears (`konsil experiment check`, and the coordinator before it opens one)."""
    threshold = threshold_of(sites, rule)
    least = least_in_sum(threshold, quorum_sites)
    return RoundBounds(sites, threshold, least, sites - least, min(margin_of(sites, threshold) - 1, least - 2))
