"""What the site has on its hands: each experiment as a job, and the agenda of them all.

All frozen; both are what the spool keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from messages.envelope import Event, decode_stored
from messages.experiment import Experiment
from messages.kinds import Body, CaseCounts, EvaluationStart, Label, ModelScores, Platform, PrivacyPlan, RoundStart
from messages.kinds import Transfer as Sealed
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.statistics.configuration import Configuration, configure_experiment
from site_agent.core.secure.state import SecurePart, TrainedInside


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
    MEASURING = "measuring"
    """As for training: the site tells of its training cases before anything is trained."""
    MASKING = "masking"
    """In a secure round: what was trained or scored is here, and it waits for its masks, or gets them."""
    SENDING = "sending"
    """The update is complete on disk; ends with its receipt."""
    EVALUATING = "evaluating"
    REPORTED = "reported"
    """The final scores are out."""
    DECLINED = "declined"
    ENDED = "ended"


NEEDS_SLOT = (Phase.PREPARING, Phase.MEASURING, Phase.TRAINING, Phase.EVALUATING)
OVER = (Phase.DECLINED, Phase.ENDED)
AT_WORK = (Phase.FETCHING, Phase.MEASURING, Phase.TRAINING, Phase.MASKING, Phase.SENDING, Phase.EVALUATING)


class Job(BaseModel):
    """One experiment at this site.

    `signer` is the fingerprint of the key that signed the researcher's event, where it was checked.
    `start` is the event, verbatim, of the step that is being worked on; `pending` one that came before the site was
    ready. `round` is the last round that was dealt with, `opening` the opening in it (`site_agent.core.steps`).
    `again` counts how often the opening was taken on after it had been given up; `pending` keeps its event until then.
    `attempt` goes up only where chunks of an earlier attempt may be out with other content. `data` is what the data set
    looked like when the site joined (`site_agent.data.guard`). `deaths` counts the trainer's deaths in this task.
    `configuration`: what the experiment goes on with, once its statistics are pooled. `privacy`: what the site has
    announced of its training under differential privacy.
    `announced`: training cases that it joined a secure experiment with, however many are counted later: its weight.
    `secure`: the part in a secure round; `trained`: what came of its training, and stays inside; `barred`: the last
    round in which no secure step is taken any more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    digest: str
    file: dict[str, Any]
    researcher: str
    signer: str | None = Field(None, exclude_if=lambda value: value is None)
    phase: Phase = Phase.PREPARING
    round: int = 0
    opening: int = Field(1, exclude_if=lambda value: value == 1)  # an agent that is rolled back reads its spool
    attempt: int = 1
    again: int = Field(0, exclude_if=lambda value: not value)
    start: bytes | None = None
    pending: bytes | None = None
    counts: CaseCounts | None = None
    announced: int | None = Field(None, exclude_if=lambda value: value is None)
    platform: Platform | None = None
    privacy: PrivacyPlan | None = Field(None, exclude_if=lambda value: value is None)
    data: str | None = None
    update: Trained | None = None
    sealed: bool = False
    fetched: tuple[str, ...] = ()
    scores: dict[Label, ModelScores] = {}
    deaths: int = 0
    configuration: Configuration | None = Field(None, exclude_if=lambda value: value is None)
    secure: SecurePart | None = Field(None, exclude_if=lambda value: value is None)
    trained: TrainedInside | None = Field(None, exclude_if=lambda value: value is None)
    barred: int = Field(0, exclude_if=lambda value: not value)
    suspended: bool = False
    reason: Reason | None = None

    @property
    def round_start(self) -> RoundStart:
        """The body of the round's announcement."""
        body = _decode_body(self.start)
        assert isinstance(body, RoundStart)  # noqa: S101 (for mypy: only round-starts are kept in these phases)
        return body

    @property
    def evaluation_start(self) -> EvaluationStart:
        """The body of the evaluation's announcement."""
        body = _decode_body(self.start)
        assert isinstance(body, EvaluationStart)  # noqa: S101 (as above)
        return body

    @property
    def label(self) -> Label | None:
        """The model to score next; None when all are scored."""
        return next((label for label in self.evaluation_start.digests() if label not in self.scores), None)


class Trained(BaseModel):
    """AnyInput: the update of a round is complete on disk, and its seal is known. Scores as they may leave."""

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
    epsilon: float | None = Field(None, exclude_if=lambda value: value is None)
    """Spent so far, this update included."""


Job.model_rebuild()


@lru_cache(maxsize=64)
def event_of(raw: bytes) -> Event:
    """An event that was stored verbatim."""
    return decode_stored(raw)


def _decode_body(raw: bytes | None) -> Body | None:
    return None if raw is None else event_of(raw).body


@dataclass(frozen=True)
class SaidBefore:
    """What a site whose disk went back in time has said of a step, as the coordinator heard it.

    `attempt`: the newest one that it announced in the round; 0: none. `reported`: its part in the opening is there.
    """

    round: int
    opening: int
    attempt: int
    reported: bool


@dataclass(frozen=True)
class Agenda:
    """All experiments of one site, and the queue for its one training slot."""

    site: str
    jobs: dict[str, Job] = field(default_factory=dict)
    queue: tuple[str, ...] = ()
    """Who waits for the training slot, the first to come first; whose turn it is, `site_agent.core.agenda` says."""
    running: str | None = None
    served: tuple[str, ...] = ()
    """Researchers in the order of their last turns in the slot, the latest last. Not kept over a restart."""
    paused: bool = False
    draining: bool = False
    open: bool = True
    """Within the operator's hours."""
    said: Mapping[str, SaidBefore] = field(default_factory=dict)
    """By experiment. Not kept over a restart: the coordinator tells it again."""

    def has_reported(self, experiment: str, round_number: int, opening: int) -> bool:
        """Whether the site has done its part in a step, and its disk does not know any more."""
        said = self.said.get(experiment)
        return said is not None and said.reported and (said.round, said.opening) == (round_number, opening)

    def attempt_above(self, experiment: str, round_number: int) -> int:
        """The least attempt of an update that was not announced before."""
        said = self.said.get(experiment)
        return 1 if said is None or said.round != round_number else said.attempt + 1

    def job_of(self, experiment: str) -> Job | None:
        """The job of an experiment, if there is one."""
        return self.jobs.get(experiment)

    def may_open(self, researcher: str, most: int | None) -> bool:
        """Whether one more experiment of a researcher may be open here.

        One that waits for the operator's hours is open, too: it joins when they begin.
        """
        if most is None:
            return True
        jobs = [job for job in self.jobs.values() if job.researcher == researcher]
        waiting = sum((job.phase, job.reason) == (Phase.DECLINED, Reason.OUTSIDE_HOURS) for job in jobs)
        return sum(job.phase not in OVER for job in jobs) + waiting < most

    def phase_of(self, experiment: str) -> Phase:
        """Where an experiment stands."""
        job = self.jobs.get(experiment)
        return Phase.UNKNOWN if job is None else job.phase

    @property
    def busy(self) -> bool:
        """Whether some round or evaluation is in work."""
        return any(job.phase in AT_WORK or job.secure is not None for job in self.jobs.values())


_READ: dict[str, tuple[dict[str, Any], Configuration | None, Experiment]] = {}
_MOST_READ = 64


def count_charged(job: Job, steps: int) -> int:
    """How many noisy steps an update of so many optimiser steps is charged as."""
    dp = experiment_of(job).privacy.dp
    return steps if dp is None else dp.count_charged(steps)


def must_mask(job: Job) -> bool:
    """Whether nothing that training or scoring gave may leave but masked."""
    return bool(experiment_of(job).privacy.secure_aggregation)


def experiment_of(job: Job) -> Experiment:
    """The experiment file of a job, as it is configured now.

    A few are kept as they were read, since each step of a job asks for its file.
    """
    known = _READ.get(job.digest)
    if known is None or known[:2] != (job.file, job.configuration):
        if len(_READ) >= _MOST_READ:
            _READ.clear()
        experiment = Experiment.model_validate(job.file)
        if job.configuration is not None:
            experiment = configure_experiment(experiment, job.configuration)
        known = _READ[job.digest] = (job.file, job.configuration, experiment)
    return known[2]
