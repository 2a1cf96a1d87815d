"""What a federated result is held against: the same net trained on pooled data, or at one site alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from messages.scores import SplitScores, pool


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation on the validation cases while a baseline trained."""

    epoch: float
    steps: int
    dice: float
    """Mean over regions."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference of mean test Dice: federated minus baseline (docs/architecture.md, rule of evaluation 7)."""

    mean: float
    low: float
    high: float
    n: int
    """Test cases that were paired."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline model, scored on the same test cases as the federated one.

    Attributes:
        name: "pooled", or "alone: site-a" for a model that one site trained on its own cases.
        sites: test scores by site.
        curve: validation Dice while it trained, in order; empty where it was not scored.
        seconds: wall clock of its training and evaluation.
        gain: paired gain of the federated model over this one, where cases could be paired.
    """

    name: str
    sites: Mapping[str, SplitScores]
    curve: tuple[Point, ...] = ()
    seconds: float | None = None
    gain: Gain | None = None
    pooled: SplitScores = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pooled", pool(self.sites.values()))

    @property
    def mean(self) -> float | None:
        """Overall test Dice: region mean over all cases, then mean over regions (rule 4)."""
        return self.pooled.mean()

    @property
    def regions(self) -> dict[str, float | None]:
        """Overall test Dice by region."""
        return self.pooled.regions()
