"""What happens to the agenda: what the coordinator says, what our own parts report, what operator and clock change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from messages.envelope import Event
from messages.kinds import Body, CaseCounts, Label, Platform, StatisticsReady
from messages.kinds import Transfer as Sealed
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.tensors.transfer import TransferKey
from site_agent.core.budget import Price
from site_agent.core.jobs import SaidBefore, Trained
from site_agent.core.policy import PolicyVerdict
from site_agent.core.secure.decisions import SecretsKept
from site_agent.core.secure.state import TrainedInside


@dataclass(frozen=True)
class Heard:
    """An event of the coordinator, new and of the current term. `verdict`: today's, on the event's experiment;
    `opens_in`: seconds until the operator's hours begin, 0 within them."""

    event: Event
    verdict: PolicyVerdict = field(default_factory=PolicyVerdict)
    opens_in: float = 0.0


@dataclass(frozen=True)
class Approved:
    experiment: str


@dataclass(frozen=True)
class TurnedDown:
    """The operator declined by hand what awaited approval."""

    experiment: str


@dataclass(frozen=True)
class Prepared:
    """The trainer has read the data. `lack`: why they do not suffice; `data`: what they looked like just before;
    `committed`: keyed digests of policy and data, by what they are of. `price`: what training would spend;
    `patients`: of training, as they may be told, where it is private."""

    experiment: str
    counts: CaseCounts
    platform: Platform
    lack: Reason | None = None
    data: str | None = None
    committed: Mapping[str, str] = field(default_factory=dict, hash=False)
    patients: int = 0
    price: Price | None = None


@dataclass(frozen=True)
class ModelReady:
    """A global model is complete on disk. `digest`: of the model as it was received; None: its codec is not exact, and
    its seal is all that names it."""

    experiment: str
    key: TransferKey
    digest: str | None = None


@dataclass(frozen=True)
class NoSpace:
    """There is no room for a global model or an update."""

    experiment: str


@dataclass(frozen=True)
class Scored:
    """A model was scored; scores as they may leave the site."""

    experiment: str
    label: Label
    splits: dict[Literal["validation", "test"], SplitScores]


@dataclass(frozen=True)
class CasesMeasured:
    """The training cases were measured; as it may leave the site. None: nothing of it may."""

    experiment: str
    told: StatisticsReady | None


@dataclass(frozen=True)
class SecureAnswered:
    """A step of a secure round can be answered, of this opening; `kept`: what the spool holds from then on."""

    experiment: str
    round: int
    opening: int
    kind: str
    body: Body
    kept: SecretsKept


@dataclass(frozen=True)
class UpdateMasked:
    """The round's masked update is complete on disk, under its seal."""

    experiment: str
    round: int
    attempt: int
    transfer: Sealed


@dataclass(frozen=True)
class SecureRefused:
    """What the coordinator asks for in a secure round is what this site never does, or cannot do; ABSENT: it is not
    asked."""

    experiment: str
    round: int
    opening: int
    reason: Reason


@dataclass(frozen=True)
class TrainerFailed:
    """The trainer could not do what it was asked."""

    experiment: str
    reason: Reason


@dataclass(frozen=True)
class PartBroken:
    """A part of ours raised over this experiment: a defect, which ends as a code and not in silence.

    `round`, `opening`: of the step whose event could not be handled; 0: whatever the job works on.
    """

    experiment: str
    reason: Reason = Reason.TRAINING_ERROR
    round: int = 0
    opening: int = 1


@dataclass(frozen=True)
class Distrusted:
    """What the coordinator signed contradicts itself: the site takes no more part, and both versions are kept."""

    experiment: str
    reason: Reason


@dataclass(frozen=True)
class TrainerDied:
    """The process ended in mid-task; `stuck`: by the agent's hand, `out_of_memory`: by the kernel's."""

    experiment: str
    stuck: bool = False
    out_of_memory: bool = False


@dataclass(frozen=True)
class ChunksSent:
    """The broker has confirmed every chunk of an update."""

    experiment: str
    round: int
    attempt: int


@dataclass(frozen=True)
class UpdateLost:
    """The update's file is not what it was."""

    experiment: str
    round: int
    attempt: int


@dataclass(frozen=True)
class Receipted:
    """The coordinator has dealt with the whole update."""

    experiment: str
    round: int
    attempt: int


@dataclass(frozen=True)
class Retried:
    """A while has passed since a round was given up for want of something that may be there again."""

    experiment: str


@dataclass(frozen=True)
class Restarted:
    """The agent starts; `verdicts`: today's, on every experiment that was declined, or whose round was given up.
    `said`: by experiment, what the site said before its disk went back in time."""

    verdicts: dict[str, PolicyVerdict] = field(default_factory=dict)
    said: dict[str, SaidBefore] = field(default_factory=dict)


@dataclass(frozen=True)
class Switched:
    """The operator or the clock changed how the agent works; None leaves as it is."""

    paused: bool | None = None
    draining: bool | None = None
    open: bool | None = None


AnyInput = (
    Heard
    | Approved
    | TurnedDown
    | Prepared
    | ModelReady
    | NoSpace
    | Trained
    | TrainedInside
    | Scored
    | CasesMeasured
    | SecureAnswered
    | UpdateMasked
    | SecureRefused
    | TrainerFailed
    | PartBroken
    | Distrusted
    | TrainerDied
    | ChunksSent
    | UpdateLost
    | Receipted
    | Retried
    | Restarted
    | Switched
)
