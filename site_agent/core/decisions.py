"""What the agenda decides: each changes it by `site_agent.core.evolve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from messages.kinds import CaseCounts, Label, Platform, PrivacyPlan, StatisticsReady
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.statistics.configuration import Configuration
from site_agent.core.jobs import SaidBefore, Trained
from site_agent.core.secure.decisions import SecureDecision


@dataclass(frozen=True)
class Ignore:
    """Nothing changes, and why. `experiment` may be unknown."""

    experiment: str
    reason: Reason


@dataclass(frozen=True)
class Invite:
    """A new job; `by_hand`: it awaits approval."""

    experiment: str
    file: dict[str, Any]
    digest: str
    researcher: str
    by_hand: bool
    refusal: Reason | None = None
    signer: str | None = None


@dataclass(frozen=True)
class Prepare:
    """Approved, or allowed at last: read the data."""

    experiment: str


@dataclass(frozen=True)
class Join:
    experiment: str
    counts: CaseCounts
    platform: Platform
    data: str | None = None
    committed: Mapping[str, str] = field(default_factory=dict, hash=False)
    privacy: PrivacyPlan | None = None


@dataclass(frozen=True)
class Recount:
    """The trainer read the data anew in mid-experiment."""

    experiment: str
    counts: CaseCounts
    platform: Platform


@dataclass(frozen=True)
class Decline:
    experiment: str
    reason: Reason
    counts: CaseCounts | None = None


@dataclass(frozen=True)
class Hold:
    """A round or evaluation was announced before the site is ready; None forgets it."""

    experiment: str
    raw: bytes | None


@dataclass(frozen=True)
class Drop:
    """Leave what is being done for the current round."""

    experiment: str


@dataclass(frozen=True)
class TakeRound:
    """A step of a round is taken on: `raw` is the event that opened it, the evaluation's too."""

    experiment: str
    round: int
    opening: int
    raw: bytes


@dataclass(frozen=True)
class PassBy:
    """A round goes on without this site: nothing of it need be kept."""

    experiment: str
    round: int
    opening: int


@dataclass(frozen=True)
class Fetched:
    """A model is at hand; once all are that the task needs, the job queues for the slot."""

    experiment: str
    stem: str


@dataclass(frozen=True)
class Begin:
    """The slot is this job's."""

    experiment: str


@dataclass(frozen=True)
class Keep:
    """The update is complete: send it."""

    experiment: str
    trained: Trained


@dataclass(frozen=True)
class Seal:
    """All chunks are out: say so."""

    experiment: str


@dataclass(frozen=True)
class Resend:
    experiment: str
    chunks: tuple[int, ...] | None


@dataclass(frozen=True)
class Deliver:
    """The coordinator has the update."""

    experiment: str


@dataclass(frozen=True)
class Redo:
    """Get the round's update again, as a new attempt: what may be out is not what would come now."""

    experiment: str


@dataclass(frozen=True)
class GiveUp:
    """The step cannot be delivered. `raw`: the event that opened it, kept where the reason may pass."""

    experiment: str
    round: int
    opening: int
    reason: Reason
    raw: bytes | None = None


@dataclass(frozen=True)
class Retry:
    """The trainer died once: start again, from the same model with the same seeds."""

    experiment: str


@dataclass(frozen=True)
class KeepScores:
    experiment: str
    label: Label
    splits: dict[Literal["validation", "test"], SplitScores]


@dataclass(frozen=True)
class Report:
    experiment: str


@dataclass(frozen=True)
class TellStatistics:
    """The fingerprint of the training cases leaves."""

    experiment: str
    told: StatisticsReady


@dataclass(frozen=True)
class Configure:
    """The experiment goes on as it was configured from what all told."""

    experiment: str
    configuration: Configuration


@dataclass(frozen=True)
class End:
    experiment: str
    reason: Reason | None


@dataclass(frozen=True)
class Suspend:
    """The researcher paused the experiment, or let it go on; what is in work is finished."""

    experiment: str
    suspended: bool


@dataclass(frozen=True)
class Recover:
    """Go on after a restart."""

    experiment: str


@dataclass(frozen=True)
class Heed:
    """Go on above what was said before the disk went back in time."""

    said: Mapping[str, SaidBefore]


@dataclass(frozen=True)
class Switch:
    paused: bool
    draining: bool
    open: bool


Decision = (
    Ignore
    | Invite
    | Prepare
    | Join
    | Recount
    | Decline
    | Hold
    | Drop
    | TakeRound
    | PassBy
    | Fetched
    | Begin
    | Keep
    | Seal
    | Resend
    | Deliver
    | Redo
    | GiveUp
    | Retry
    | KeepScores
    | Report
    | TellStatistics
    | Configure
    | End
    | Suspend
    | Recover
    | Heed
    | Switch
    | SecureDecision
)
