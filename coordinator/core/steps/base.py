"""What a step of a round is: one row of a table (`coordinator.core.steps.table`). Pure.

A round is a sequence of steps. The coordinator opens a step with one kind of event, each site that takes part answers
with another kind, and the step closes when the plan says that enough is here. To add a step: a row here, a body in
`messages.kinds`, a handler of the answer, and the same at the site (`site_agent.core.steps`). Quorum, grace, deadline,
absence, repetition and recovery are written against the row and `Part.reported`, and hold for each step alike.

Each opening within a round has a number (`Round.opening`, from 1), which is the attempt of its event: so a site knows
the newer of two events of one round, and what it answers to each has an id of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState, Part, Phase, Round, StepName
from messages import kinds
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.scores import SplitScores, is_sound

Decided = tuple[d.AnyDecision, ...]
Answer = Decided | Reason

Wanted = TypeVar("Wanted", bound=kinds.Body)


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step.

    Attributes:
        name: as it stands in `RoundStarted` and in the state.
        phase: of the experiment while the step is open.
        opens: kind of event that opens it.
        answers: kind of event by which a site that takes part answers it.
        takes_updates: whether chunks of updates are taken meanwhile.
        within: its deadline, in seconds after it opened.
        body: of the opening event.
        transfers: global models that are sent when it opens.
        answered: what a site's answer means; asked for the first good answer of a site that takes part.
        close: what follows once the step is over and none comes after it in its round.
        overdue: what follows from the last deadline without a quorum.
        extends: whether its deadline may be extended.
    """

    name: StepName
    phase: Phase
    opens: str
    answers: str
    takes_updates: bool
    within: Callable[[Experiment], float]
    body: Callable[[ExperimentState, Round], kinds.Body]
    transfers: Callable[[ExperimentState, Round], tuple[kinds.Transfer, ...]]
    answered: Callable[[ExperimentState, Round, i.Received], Answer]
    close: Callable[[ExperimentState, Round, float], Decided]
    overdue: Callable[[ExperimentState, Round, float], Decided]
    extends: bool = True


def body_of(given: i.Received, model: type[Wanted]) -> Wanted:
    """The event's body as its kind's model, which decoding has made it."""
    body = given.event.body
    if not isinstance(body, model):
        raise TypeError(f"{given.event.kind} goes to another handler")
    return body


def left_behind(round_: Round) -> tuple[dict[str, Reason], Decided]:
    """Who has not reported in the open step, with the reason; and receipts for updates that are under way."""
    left_out: dict[str, Reason] = {}
    told: list[d.AnyDecision] = []
    for site, part in sorted(round_.parts.items()):
        if part.reported:
            continue
        left_out[site] = part.failed or (Reason.STRAGGLER if part.update else Reason.ABSENT)
        if part.update is not None:
            event = part.update.event
            told.append(
                d.Refused(event=event, kind="weights-ready", sender=site, reason=Reason.LATE, round=round_.number)
            )
            told.append(d.Settled(event=event, sender=site))
    return left_out, tuple(told)


def supersede_attempt(state: ExperimentState, site: str) -> Decided:
    """Receipts for an attempt that is under way and will not be waited for any more."""
    part = state.round.parts.get(site) if state.round is not None else None
    if state.round is None or part is None or part.update is None or part.stored:
        return ()
    event, number = part.update.event, state.round.base_of(site)
    return (
        d.Refused(event=event, kind="weights-ready", sender=site, reason=Reason.OLDER_ATTEMPT, round=number),
        d.Settled(event=event, sender=site),
    )


def poolable(state: ExperimentState, reports: Iterable[SplitScores]) -> list[SplitScores]:
    """Reports that pool without fail; logic 2 took others, and pooling them raised."""
    return [one for one in reports if state.logic < 3 or is_sound(one)]


def pool_parts(state: ExperimentState, parts: Mapping[str, Part], label: str, split: str) -> SplitScores | None:
    """What has been reported of a candidate, over all sites; None where nothing was."""
    reports: list[SplitScores] = []
    for _site, part in sorted(parts.items()):
        scores = (part.scores or {}).get(label) if part.reported else None
        if scores is not None:
            reports += [one for name, one in scores.splits.items() if name == split]
    reports = poolable(state, reports)
    return state.experiment.task.reader.pool_reports(reports) if reports else None


def is_foreign(state: ExperimentState, scores: SplitScores) -> bool:
    """Whether scores are told of what the experiment does not ask for: such names would be a site's own words."""
    return not state.experiment.task.reader.asks_for(scores)
