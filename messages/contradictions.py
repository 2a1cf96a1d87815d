"""Whether one site's scores of a model contradict the others' scores of the same model; pure.

Every site scores the same global model. Where one target is found well at the other sites and hardly at one,
that site's references mean something else: labels exchanged or defined otherwise, images mixed up, a scanner that no
other site has. The training loss does not show it, since a net learns whatever it is given.

The rule, for one target and one site:

1. At the other sites the median of the means is at least `WELL_FOUND`.
2. The site's mean lies below that median by at least `GAP`, or `GAP_OF_TWO` where there is one other site only.
3. That is at least `SPREADS` times the spread among the others (1.4826 x median absolute deviation, at least
   `LEAST_SPREAD`), and at least `ERRORS` times the standard error of the site's own mean (from its own deviation, at
   least `LEAST_DEVIATION`). So a few hard cases alone are no contradiction.

Of validation scores a person is told where the rule holds for two of `TWICE_IN` models in a row; of test scores,
at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from messages.scores import ScoreSums, SplitScores
from messages.tasks.base import ScoreReader

WELL_FOUND = 0.5
GAP, GAP_OF_TWO = 0.35, 0.45
SPREADS, LEAST_SPREAD = 4.0, 0.05
ERRORS, LEAST_DEVIATION = 4.0, 0.25
TWICE_IN = 4
_NORMAL = 1.4826


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One site's score of one target, far below that of the others.

    Attributes:
        mean, n: at the site. others: the median of the other sites' means. alone: no other target of it is far below.
    """

    site: str
    target: str
    mean: float
    n: int
    others: float
    alone: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same one for another model."""
        return (self.site, self.target)

    def describe(self, title: str) -> str:
        """One line; `title`: of the metric."""
        return (
            f"{self.site}: {title} of {self.target} is {self.mean:.2f} (n = {self.n}), "
            f"at the other sites {self.others:.2f}"
        )


CONTRADICTION_ADVICE = (
    "its labels may be exchanged or mean something else: compare the volumes of `konsil site datasets` at the sites, "
    "and look at `konsil site preview`"
)


def find_contradictions(by_site: Mapping[str, SplitScores], reader: ScoreReader) -> tuple[Contradiction, ...]:
    """What contradicts, by site and target; none where the task's metric is not one from 0 to 1 that grows.

    Args:
        by_site: each site's scores of one model on one split. What is withheld cannot be compared.
    """
    if not reader.higher_is_better or reader.most != 1.0:
        return ()
    found = []
    for target in reader.targets:
        told = {
            site: score
            for site, scores in sorted(by_site.items())
            if (score := scores.metrics.get(reader.metric, {}).get(target)) is not None and score.n
        }
        found += [one for site in _find_low(told) if (one := _compare_site(site, target, told)) is not None]
    counts = {one.site: sum(other.site == one.site for other in found) for one in found}
    scored = len(reader.targets)
    return tuple(
        Contradiction(one.site, one.target, one.mean, one.n, one.others, alone=counts[one.site] < scored)
        for one in sorted(found, key=lambda one: one.key)
    )


def _find_low(told: Mapping[str, ScoreSums]) -> list[str]:
    """Sites so far below that they may contradict: each is compared with all, so that only few should be.

    The median of the others is at most the value one place above the middle of all.
    """
    means = sorted(score.mean or 0.0 for score in told.values())
    most = means[min(len(means) - 1, len(means) // 2 + 1)] if means else 0.0
    return [site for site, score in told.items() if most - (score.mean or 0.0) >= min(GAP, GAP_OF_TWO)]


def _compare_site(site: str, target: str, told: Mapping[str, ScoreSums]) -> Contradiction | None:
    own = told[site]
    others = [score.mean or 0.0 for name, score in told.items() if name != site]
    if not others:
        return None
    mean, middle = own.mean or 0.0, median(others)
    spread = max(LEAST_SPREAD, _NORMAL * median(abs(one - middle) for one in others))
    error = max(LEAST_DEVIATION, own.std or 0.0) / math.sqrt(own.n)
    needed = max(GAP if len(others) > 1 else GAP_OF_TWO, SPREADS * spread, ERRORS * error)
    if middle < WELL_FOUND or middle - mean < needed:
        return None
    return Contradiction(site, target, mean, own.n, middle)


class Persistent:
    """Tells a contradiction of validation scores once it holds for two of `TWICE_IN` models, and once only.

    A model swings to and fro between sites that contradict each other: it need not show in two models in a row.
    """

    def __init__(self) -> None:
        self._before: deque[set[tuple[str, str]]] = deque(maxlen=TWICE_IN - 1)
        self._told: set[tuple[str, str]] = set()

    def take_news(self, found: tuple[Contradiction, ...]) -> tuple[Contradiction, ...]:
        """Those of the next model that are to be told now."""
        seen = set().union(*self._before)
        news = tuple(one for one in found if one.key in seen and one.key not in self._told)
        self._before.append({one.key for one in found})
        self._told |= {one.key for one in news}
        return news
