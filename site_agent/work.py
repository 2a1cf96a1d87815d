"""The agenda's words: what the site has on its hands, what happens to it, what is decided, what is to be done.

All frozen. `Job` and `Agenda` are what the spool keeps; stimuli come in, decisions change the agenda, effects go out
to the shell (`site_agent.errands`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from messages.envelope import Event, decode
from messages.experiment import Experiment
from messages.kinds import Body, CaseCounts, EvaluationStart, ModelScores, Platform, RoundStart
from messages.kinds import Transfer as Sealed
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.transfer import TransferKey
from site_agent.policy import Verdict


class Phase(StrEnum):
    """Where one experiment stands at this site."""

    UNKNOWN = "unknown"
    """Not in the agenda."""
    AWAITING = "awaiting"
    """Allowed, and the operator has to approve it by hand."""
    PREPARING = "preparing"
    IDLE = "idle"
    """Joined, between rounds."""
    FETCHING = "fetching"
    TRAINING = "training"
    """Queued for the training slot, or in it (`Agenda.running`)."""
    SENDING = "sending"
    """The update is complete on disk; ends with its receipt."""
    EVALUATING = "evaluating"
    REPORTED = "reported"
    """The final scores are out."""
    DECLINED = "declined"
    ENDED = "ended"


NEEDS_SLOT = (Phase.PREPARING, Phase.TRAINING, Phase.EVALUATING)
OVER = (Phase.DECLINED, Phase.ENDED)


class Job(BaseModel):
    """One experiment at this site.

    `start` is the event, verbatim, of the round or evaluation that is being worked on; `pending` one that came
    before the site was ready. `round` is the last round that was dealt with. `attempt` goes up only where chunks of
    an earlier attempt may be out with other content. `data` is what the data set looked like when the site joined
    (`site_agent.data_guard`). `deaths` counts the trainer's deaths in this task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    digest: str
    file: dict[str, Any]
    researcher: str
    phase: Phase = Phase.PREPARING
    round: int = 0
    attempt: int = 1
    start: bytes | None = None
    pending: bytes | None = None
    counts: CaseCounts | None = None
    platform: Platform | None = None
    data: str | None = None
    update: Trained | None = None
    sealed: bool = False
    fetched: tuple[str, ...] = ()
    scores: dict[Literal["final", "selected"], ModelScores] = {}
    deaths: int = 0
    suspended: bool = False
    reason: Reason | None = None

    @property
    def round_start(self) -> RoundStart:
        """The body of the round's announcement."""
        body = _body(self.start)
        assert isinstance(body, RoundStart)  # noqa: S101 (for mypy: only round-starts are kept in these phases)
        return body

    @property
    def evaluation_start(self) -> EvaluationStart:
        """The body of the evaluation's announcement."""
        body = _body(self.start)
        assert isinstance(body, EvaluationStart)  # noqa: S101 (as above)
        return body

    @property
    def label(self) -> Literal["final", "selected"] | None:
        """The model to score next; None when all are scored."""
        return next((one.label for one in self.evaluation_start.models if one.label not in self.scores), None)


class Trained(BaseModel):
    """Stimulus: the update of a round is complete on disk, and its seal is known. Scores as they may leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    round: int
    attempt: int
    transfer: Sealed
    cases: int
    epochs: int
    steps: int
    loss: float | None
    seconds: float
    validation: SplitScores | None = None


Job.model_rebuild()


@lru_cache(maxsize=64)
def event_of(raw: bytes) -> Event:
    """An event that was stored verbatim."""
    return decode(raw)


def _body(raw: bytes | None) -> Body | None:
    return None if raw is None else event_of(raw).body


@dataclass(frozen=True)
class Agenda:
    """All experiments of one site, and the queue for its one training slot."""

    site: str
    jobs: dict[str, Job] = field(default_factory=dict)
    queue: tuple[str, ...] = ()
    """Who waits for the training slot, first come first."""
    running: str | None = None
    paused: bool = False
    draining: bool = False
    open: bool = True
    """Within the operator's hours."""

    def job(self, experiment: str) -> Job | None:
        """The job of an experiment, if there is one."""
        return self.jobs.get(experiment)

    def phase(self, experiment: str) -> Phase:
        """Where an experiment stands."""
        job = self.jobs.get(experiment)
        return Phase.UNKNOWN if job is None else job.phase

    @property
    def busy(self) -> bool:
        """Whether some round or evaluation is in work."""
        return any(
            job.phase in (Phase.FETCHING, Phase.TRAINING, Phase.SENDING, Phase.EVALUATING) for job in self.jobs.values()
        )


# what happens


@dataclass(frozen=True)
class Heard:
    """An event of the coordinator, new and of the current term. `verdict`: today's, on the event's experiment;
    `opens_in`: seconds until the operator's hours begin, 0 within them."""

    event: Event
    verdict: Verdict = field(default_factory=Verdict)
    opens_in: float = 0.0


@dataclass(frozen=True)
class Approved:
    experiment: str


@dataclass(frozen=True)
class Prepared:
    """The trainer has read the data. `lack`: why they do not suffice; `data`: what they looked like just before."""

    experiment: str
    counts: CaseCounts
    platform: Platform
    lack: Reason | None = None
    data: str | None = None


@dataclass(frozen=True)
class ModelReady:
    """A global model is complete on disk."""

    experiment: str
    key: TransferKey


@dataclass(frozen=True)
class NoSpace:
    """There is no room for a global model or an update."""

    experiment: str


@dataclass(frozen=True)
class Scored:
    """A model was scored; scores as they may leave the site."""

    experiment: str
    label: Literal["final", "selected"]
    splits: dict[Literal["validation", "test"], SplitScores]


@dataclass(frozen=True)
class TrainerFailed:
    """The trainer could not do what it was asked."""

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
class Restarted:
    """The agent starts; `verdicts`: today's, on every experiment that was declined."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True)
class Switched:
    """The operator or the clock changed how the agent works; None leaves as it is."""

    paused: bool | None = None
    draining: bool | None = None
    open: bool | None = None


Stimulus = (
    Heard
    | Approved
    | Prepared
    | ModelReady
    | NoSpace
    | Trained
    | Scored
    | TrainerFailed
    | TrainerDied
    | ChunksSent
    | UpdateLost
    | Receipted
    | Restarted
    | Switched
)


# what is decided


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
    experiment: str
    round: int
    raw: bytes


@dataclass(frozen=True)
class TakeEvaluation:
    experiment: str
    round: int
    raw: bytes


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
    """The round (or the evaluation) cannot be delivered."""

    experiment: str
    round: int
    reason: Reason


@dataclass(frozen=True)
class Retry:
    """The trainer died once: start again, from the same model with the same seeds."""

    experiment: str


@dataclass(frozen=True)
class KeepScores:
    experiment: str
    label: Literal["final", "selected"]
    splits: dict[Literal["validation", "test"], SplitScores]


@dataclass(frozen=True)
class Report:
    experiment: str


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
    | TakeEvaluation
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
    | End
    | Suspend
    | Recover
    | Switch
)


# what is to be done (by the shell; every effect may be repeated)


@dataclass(frozen=True)
class Say:
    """Write a history event to the outbox, in the transaction that stores the state."""

    kind: str
    experiment: str
    round: int
    body: Body
    attempt: int | str = 1


@dataclass(frozen=True)
class Fetch:
    """See that a global model comes to be on disk; answered with ModelReady."""

    key: TransferKey
    seal: Sealed


@dataclass(frozen=True)
class RunPrepare:
    experiment: str


@dataclass(frozen=True)
class RunTrain:
    experiment: str


@dataclass(frozen=True)
class RunEvaluate:
    experiment: str
    label: Literal["final", "selected"]


@dataclass(frozen=True)
class SendChunks:
    """Publish chunks of the update (None: all); all of them are answered with ChunksSent."""

    experiment: str
    chunks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Halt:
    """End the trainer's present work, and the process with it where it trains, since that cannot be taken back; one
    that still reads its data goes on."""

    experiment: str


@dataclass(frozen=True)
class CloseTrainer:
    """The experiment is over: end its warm process."""

    experiment: str


@dataclass(frozen=True)
class Free:
    """Remove models and updates up to a round; None: all of the experiment."""

    experiment: str
    round: int | None


Effect = Say | Fetch | RunPrepare | RunTrain | RunEvaluate | SendChunks | Halt | CloseTrainer | Free


def experiment_of(job: Job) -> Experiment:
    """The experiment file of a job."""
    return Experiment.model_validate(job.file)
