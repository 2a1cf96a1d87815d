"""The steps of a round as a site knows them: a row each. Pure.

To add a step: a row here, a body in `messages.kinds`, and the coordinator's row (`coordinator.core.steps`). Which event
is the newer one, refusals, pauses, restarts and the end of a round are written against the row and hold for each alike.
A step whose answer follows from its event alone is answered in the transaction that takes it on; one that needs a model
or the trainer has a phase of its own in the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from messages import kinds
from messages.envelope import Event
from messages.kinds import Body
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR
from messages.tensors.transfer import TransferKey
from site_agent.core.jobs import Job, Phase, event_of


@dataclass(frozen=True, slots=True)
class Opened:
    """What the event says that opens a step. `within`: its deadline in seconds; `models`: what has to be fetched;
    `going_on`: the earlier round whose work this site goes on with instead; None: it is to begin this one."""

    sites: tuple[str, ...]
    within: float
    models: tuple[Sealed, ...] = ()
    going_on: int | None = None


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step.

    Attributes:
        opens: kind of event that opens it.
        answers: kind of event by which this site answers it.
        phase: of the job once the step is taken on; IDLE: the step is answered with that.
        read: the event's content, for the site of this name.
        answer: the body of the answer, once the job has what it needs.
    """

    opens: str
    answers: str
    phase: Phase
    read: Callable[[Event, str], Opened]
    answer: Callable[[Job], Body]


def _round_start(event: Event, site: str) -> Opened:
    body = event.body
    assert isinstance(body, kinds.RoundStart)  # noqa: S101 (for mypy: the kind says so)
    going_on = None if body.going_on is None else body.going_on.get(site)
    return Opened(tuple(body.sites), body.train_within, (body.transfer_to(site),), going_on)


def _weights_ready(job: Job) -> Body:
    update = job.update
    assert update is not None and job.counts is not None and job.platform is not None  # noqa: S101, PT018 (for mypy)
    return kinds.WeightsReady(
        transfer=update.transfer,
        cases_used=update.cases,
        cases=job.counts,
        epochs=update.epochs,
        steps=update.steps,
        loss=update.loss,
        seconds=update.seconds,
        validation=update.validation,
        platform=job.platform,
        epsilon=update.epsilon,
    )


def _evaluation_start(event: Event, site: str) -> Opened:
    body = event.body
    assert isinstance(body, kinds.EvaluationStart)  # noqa: S101 (for mypy: the kind says so)
    return Opened(tuple(body.sites), body.evaluate_within, body.transfers())


def _evaluated_body(job: Job) -> Body:
    return kinds.Evaluated(scores=job.scores)


def _statistics_start(event: Event, site: str) -> Opened:
    body = event.body
    assert isinstance(body, kinds.StatisticsStart)  # noqa: S101 (for mypy: the kind says so)
    return Opened(tuple(body.sites), body.within)


def _no_body(job: Job) -> Body:
    raise TypeError("statistics are told as they were measured, and not out of the job")


ROWS: dict[str, StepRow] = {
    row.opens: row
    for row in (
        StepRow("round-start", "weights-ready", Phase.FETCHING, _round_start, _weights_ready),
        StepRow("evaluation-start", "evaluated", Phase.EVALUATING, _evaluation_start, _evaluated_body),
        StepRow("statistics-start", "statistics-ready", Phase.MEASURING, _statistics_start, _no_body),
    )
}
STEPS: Mapping[str, StepRow] = MappingProxyType(ROWS)
"""By the kind of event that opens the step."""


def row_of(job: Job) -> StepRow | None:
    """The row of the step that the job works on."""
    return None if job.start is None else STEPS[event_of(job.start).kind]


def models_of(job: Job, site: str) -> tuple[Sealed, ...]:
    """The models that the job's step needs at the site of this name; none where it works on none."""
    return () if job.start is None else STEPS[event_of(job.start).kind].read(event_of(job.start), site).models


def named_models(job: Job, site: str) -> Mapping[str, str]:
    """The digests of the models that the job's step names, by the stem of their files."""
    body = None if job.start is None else event_of(job.start).body
    found: list[tuple[Sealed, str]] = []
    if isinstance(body, kinds.RoundStart):
        own = None if body.own is None else body.own.get(site)
        found = [(body.transfer_to(site), body.model_digest if own is None else own.model_digest)]
    elif isinstance(body, kinds.EvaluationStart):
        found = [(one.transfer, one.model_digest) for one in body.models]
        if body.combined is not None:
            parts = body.combined.parts
            found += [(sealed, parts[label].model_digest) for label, sealed in body.combined.transfers().items()]
    keys = [TransferKey(job.experiment, sealed.round, COORDINATOR, sealed.attempt) for sealed, _digest in found]
    return {key.stem: digest for key, (_sealed, digest) in zip(keys, found, strict=True)}


def is_well_named(job: Job) -> bool:
    """Whether an ensemble that is to be scored has the name that its parts give it."""
    body = None if job.start is None else event_of(job.start).body
    combined = body.combined if isinstance(body, kinds.EvaluationStart) else None
    if combined is None:
        return True
    parts = {label: (one.model_digest, combined.weights[label]) for label, one in combined.parts.items()}
    return kinds.name_ensemble(combined.rule, parts) == combined.model_digest


def opening_of(event: Event) -> int:
    """Which opening of its round an event is: its attempt, from 1. The newer of two events of one round has more."""
    return int(event.attempt) if event.attempt.isascii() and event.attempt.isdecimal() else 1


def order_of(event: Event) -> tuple[int, int]:
    """(round, opening): what is later has more."""
    return event.round, opening_of(event)
