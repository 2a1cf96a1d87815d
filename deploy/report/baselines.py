"""What a federated result is held against: the same net trained on pooled data, or at one site alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from messages.scores import SplitScores
from messages.tasks.base import ScoreReader


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation on the validation cases while a baseline trained."""

    epoch: float
    steps: int
    score: float
    """The one number of the model, as its task reads it."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired difference of test scores: federated minus baseline (docs/protocol.md, rule of evaluation 7)."""

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
        curve: validation scores while it trained, in order; empty where it was not scored.
        seconds: wall clock of its training and evaluation.
        gain: paired gain of the federated model over this one, where cases could be paired.
    """

    name: str
    sites: Mapping[str, SplitScores]
    curve: tuple[Point, ...] = ()
    seconds: float | None = None
    gain: Gain | None = None

    def pool_scores(self, reader: ScoreReader) -> SplitScores:
        """Test scores of all sites' cases together."""
        return reader.pool_reports(self.sites.values())

    def score(self, reader: ScoreReader) -> float | None:
        """The one number of the model, all test cases pooled ("overall")."""
        return reader.headline_score(self.pool_scores(reader))
