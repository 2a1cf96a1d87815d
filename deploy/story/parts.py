"""What a story (`deploy.story.story`) is made of: sites, rounds, updates, scores. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from messages import kinds
from messages.liveness import Signs
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader
from messages.tasks.registry import UNKNOWN

NO_SIGNS = Signs()


@dataclass(frozen=True, slots=True)
class LiveSite:
    """What a site says of itself right now; times are the observer's clock, seconds."""

    signs: Signs = NO_SIGNS
    """What `presence` is judged by."""
    state: str = ""
    busy_with: str | None = None
    queued: int = 0
    opens_at: float | None = None
    """When its allowed hours begin, where it waits for them."""
    round: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True)
class SiteStory:
    """One invited site. `state`: invited, joined, declined, leaving, excluded."""

    name: str
    state: str = "invited"
    reason: Reason | None = None
    cases: kinds.CaseCounts | None = None
    """As announced in `joined` (or told in `declined`)."""
    platform: kinds.Platform | None = None
    data: str | None = None
    """The keyed digest of its data set that it told as it joined."""
    live: LiveSite = LiveSite()


@dataclass(frozen=True, slots=True)
class UpdateStory:
    """What one site delivered in a round (its weights-ready)."""

    site: str
    cases_used: int
    cases: kinds.CaseCounts
    epochs: int
    steps: int
    loss: float | None
    seconds: float
    validation: SplitScores | None
    """Scores of the global model that the site received."""
    bytes: int
    """Of the update."""
    platform: kinds.Platform
    came: float
    """The site's clock, seconds since 1970."""


@dataclass(frozen=True)
class Exchange:
    """A step of a secure round.

    Attributes:
        step: what sites are asked for: keys, shares, masked updates, masked scores, consents, reveals.
        tried: number of the try.
        sites: who is asked; `told`: who has answered.
    """

    step: str
    tried: int
    sites: tuple[str, ...]
    told: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RoundStory:
    """One round. `state`: open, complete, void."""

    number: int
    state: str = "open"
    started: float | None = None
    """The coordinator's clock at round-start, seconds since 1970."""
    sites: tuple[str, ...] = ()
    evaluate: bool = False
    train_within: float | None = None
    model_bytes: int = 0
    received_digest: str | None = None
    """The global model this round began with."""
    accepted: frozenset[str] = frozenset()
    updates: Mapping[str, UpdateStory] = field(default_factory=dict)
    failures: Mapping[str, Reason] = field(default_factory=dict)
    """Sites that said they cannot deliver this round."""
    contributors: Mapping[str, int] = field(default_factory=dict)
    """Site → training cases used, once the round is complete."""
    left_out: Mapping[str, Reason] = field(default_factory=dict)
    going_on: Mapping[str, int] = field(default_factory=dict)
    """Site → the earlier round whose work it goes on with; what it says of that stands there."""
    staleness: Mapping[str, int] = field(default_factory=dict)
    """Contributor → how many rounds earlier its update began, where that was not this one."""
    model_digest: str | None = None
    """Of the aggregate."""
    validation: SplitScores | None = None
    """Pooled scores of the received model, once the round is complete and where it was scored."""
    seconds: float | None = None
    exchange: Exchange | None = None
    """Of a secure round, the step that is open, or was the last."""
    pooled: kinds.PooledFigures | None = None
    """Of a secure round, once it is complete: only pooled figures exist."""
    void: Reason | None = None
    """Why a secure round ended without a sum."""

    def base_of(self, site: str) -> int:
        """The round in which a contributor's update began."""
        return self.number - self.staleness.get(site, 0)

    @property
    def deadline(self) -> float | None:
        """When the sites' parts must be here (the coordinator's clock), while the round is open."""
        if self.started is None or self.train_within is None or self.state != "open":
            return None
        return self.started + self.train_within

    @property
    def site_validation(self) -> dict[str, SplitScores]:
        """The received model's scores at each site that reported them."""
        return {
            name: update.validation for name, update in sorted(self.updates.items()) if update.validation is not None
        }

    @property
    def losses(self) -> dict[str, float]:
        """Training loss (mean over the round) at each site; one that no net has is none."""
        told = {name: update.loss for name, update in sorted(self.updates.items())}
        return {name: loss for name, loss in told.items() if loss is not None and abs(loss) <= kinds.MOST_LOSS}

    @property
    def loss(self) -> float | None:
        """Mean of the sites' losses, weighted by training cases."""
        if self.pooled is not None:
            return self.pooled.loss
        weighted = [(loss, self.updates[name].cases_used) for name, loss in self.losses.items()]
        total = sum(cases for _, cases in weighted)
        return sum(loss * cases for loss, cases in weighted) / total if total else None

    @property
    def bytes_up(self) -> int:
        """Updates, all sites together."""
        return sum(update.bytes for update in self.updates.values())

    @property
    def bytes_down(self) -> int:
        """The global model, once for each site that took it on."""
        return self.model_bytes * len(self.accepted | self.updates.keys())


def late_words(staleness: Mapping[str, int] | None, site: str) -> str:
    """ " from 2 rounds earlier", where a contributor's update began then; empty where not."""
    late = (staleness or {}).get(site, 0)
    return f" from {late} round{'' if late == 1 else 's'} earlier" if late else ""


@dataclass(frozen=True)
class StatisticsStory:
    """Statistics of training cases that the experiment began with.

    Attributes:
        sites: those asked; `told`: those that told; `failures`: those that said why they cannot.
        pooled: what all told together, and what follows from it.
    """

    started: float
    sites: tuple[str, ...] = ()
    within: float = 0.0
    told: Mapping[str, kinds.StatisticsReady] = field(default_factory=dict)
    failures: Mapping[str, Reason] = field(default_factory=dict)
    pooled: kinds.StatisticsPooled | None = None

    @property
    def deadline(self) -> float:
        """The coordinator's clock."""
        return self.started + self.within


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whom the open step waits for."""

    what: str
    """round 3, the evaluation."""
    sites: Mapping[str, Reason | None]
    """Each with why it said that it cannot deliver, None where it has not."""
    until: float | None
    """When the coordinator does not wait any longer, its clock; None: not known, or the clock stands still."""


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """Validation scores of the global model after `round` rounds (0: the initial model)."""

    round: int
    pooled: SplitScores
    sites: Mapping[str, SplitScores]


@dataclass(frozen=True, slots=True)
class TestScores:
    """One model's scores on all sites' test cases (docs/protocol.md, rules of evaluation 3 to 5)."""

    __test__ = False

    label: str
    """final or selected."""
    model_digest: str
    sites: Mapping[str, SplitScores]
    pooled: SplitScores
    reader: ScoreReader = UNKNOWN

    @property
    def mean(self) -> float | None:
        """The one number of the model, all cases pooled ("overall")."""
        return self.reader.headline_score(self.pooled)

    @property
    def by_target(self) -> dict[str, float | None]:
        """The task's main metric by target, all cases pooled."""
        return self.reader.by_target(self.pooled)

    @property
    def n(self) -> int:
        """Test cases, withheld sites left out."""
        return self.pooled.cases

    @property
    def withheld(self) -> dict[str, int]:
        """Sites that tell no score, below their floor, each with its number of cases."""
        return {name: scores.cases for name, scores in sorted(self.sites.items()) if scores.withheld}

    @property
    def all_cases(self) -> int:
        """Test cases of all sites that reported, withheld ones too."""
        return sum(scores.cases for scores in self.sites.values())

    @property
    def site_means(self) -> dict[str, float]:
        """The score of each site that reported one."""
        found = ((name, self.reader.headline_score(scores)) for name, scores in sorted(self.sites.items()))
        return {name: mean for name, mean in found if mean is not None}

    @property
    def unweighted_mean(self) -> float | None:
        """Mean over sites, each counting once; None where fewer than two told a score: one is no mean over sites."""
        means = self.site_means
        return sum(means.values()) / len(means) if len(means) > 1 else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The site with the worst score, and that score; None where fewer than two told one."""
        return self.reader.worst_site(self.site_means) if len(self.site_means) > 1 else None


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the story: when (the sender's clock), who, what, in plain words."""

    time: float
    who: str
    what: str
